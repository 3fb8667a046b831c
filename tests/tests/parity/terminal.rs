//! A terminal is one from end to end.
//!
//! The setting of newlines is left out of the comparison of `stty`: runc turns it off in the
//! container, and relies on the user's terminal for it. Sizes are waited for: runc tells the
//! container's only when the command runs already.

use runcvm_tests::{Case, Output};

use crate::pair;

/// Waits until the terminal has a size.
const SIZED: &str = "until [ \"$(stty size)\" != '0 0' ]; do :; done;";

fn on_terminal(script: &str) -> Case {
    Case::sh(script).terminal(24, 80)
}

#[track_caller]
fn shows(output: &Output, text: &str) {
    assert!(
        output.out().contains(text),
        "{:?} not in {:?}",
        text,
        output.out()
    );
}

#[test]
fn is_all_three_streams() {
    let script = "for fd in 0 1 2; do test -t $fd && echo $fd; done; echo err >&2";
    let output = pair().agrees(&on_terminal(script));
    assert_eq!(output.out(), "0\r\n1\r\n2\r\nerr\r\n");
    let output = pair().agrees(&Case::sh(
        "for fd in 0 1 2; do test -t $fd && echo $fd; done",
    ));
    assert_eq!(output.out(), "");
}

#[test]
fn of_the_workload_is_all_it_can_be() {
    let script = "tty; stty size; echo $TERM; ps -o pid=,sid=,tty= -p 1; echo x >/dev/tty
        trap 'stty size; resized=yes' WINCH; echo ready
        until [ \"$resized\" ]; do sleep 0.05; done; read -r line; echo \"<$line>\"; exit 3";
    let case = on_terminal(&format!("{SIZED} {script}"));
    let output = case.agrees_while(|workload| {
        workload.wait_for("ready\r");
        workload.resize(50, 132);
        workload.wait_for("50 132\r");
        workload.write("typed\r");
    });
    assert_eq!(output.status, 3);
    let (start, end) = ("/dev/pts/0\r\n24 80\r\nxterm\r\n", "typed\r\n<typed>\r\n");
    assert!(
        output.out().starts_with(start) && output.out().ends_with(end),
        "{}",
        output.out()
    );
}

#[test]
fn has_a_name_and_is_the_controlling_one() {
    let script = "case $(tty) in /dev/pts/[0-9]*) echo named;; esac
        echo mine >/dev/tty; stat -L -c '%a %G' $(tty); test $(ps -o sid= -p $$) = $$ && echo leads";
    let output = pair().agrees(&on_terminal(script));
    assert!(
        output.out().starts_with("named\r\nmine\r\n"),
        "{}",
        output.out()
    );
    let output = pair().agrees(&on_terminal("echo mine >/dev/tty; tty >/dev/null").user("user"));
    assert_eq!(output.out(), "mine\r\n");
}

#[test]
fn has_the_user_s_size() {
    for (rows, columns) in [(24, 80), (1, 1), (60, 237), (500, 1000)] {
        let case = Case::sh(&format!("{SIZED} stty size")).terminal(rows, columns);
        assert_eq!(
            pair().agrees(&case).succeeded().out(),
            format!("{rows} {columns}\r\n")
        );
    }
    // In a machine it has it from the start.
    let case = Case::new(["stty", "size"]).terminal(24, 80);
    assert_eq!(case.exec_in_vm(pair().vm()).wait().out(), "24 80\r\n");
}

#[test]
fn follows_the_user_s_size() {
    let script = "trap 'stty size' WINCH; echo ready
        until [ \"$(stty size)\" = '12 34' ]; do sleep 0.05; done";
    let output = pair().agrees_while(&on_terminal(&format!("{SIZED} {script}")), |command| {
        command.wait_for("ready\r");
        command.resize(50, 132);
        command.wait_for("50 132\r");
        command.resize(12, 34);
        command.wait_for("12 34\r");
    });
    assert_eq!(output.out(), "ready\r\n50 132\r\n12 34\r\n");
}

#[test]
fn echoes_and_edits_lines() {
    let case = on_terminal("echo ready; read -r line; echo \"<$line>\"");
    let output = pair().agrees_while(&case, |command| {
        command.wait_for("ready\r");
        command.write("wrong\x15abx\x7fc\r");
    });
    shows(&output, "<abc>\r\n");
}

#[test]
fn control_c_interrupts() {
    let output = pair().agrees_while(&on_terminal("echo ready; exec sleep 60"), |command| {
        command.wait_for("ready\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        command.write("\x03");
    });
    assert_eq!(output.status, 130);
    shows(&output, "^C");
}

#[test]
fn control_c_reaches_a_workload() {
    let case =
        on_terminal("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.1; done");
    let output = case.agrees_while(|workload| {
        workload.wait_for("ready\r");
        workload.write("\x03");
    });
    assert_eq!(output.status, 9);
    shows(&output, "^Cinterrupted\r\n");
}

#[test]
fn control_backslash_quits_and_control_d_ends_input() {
    let output = pair().agrees_while(&on_terminal("echo ready; exec sleep 60"), |command| {
        command.wait_for("ready\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        command.write("\x1c");
    });
    assert_eq!(output.status, 131);
    let output = pair().agrees_while(&on_terminal("echo ready; cat; echo end"), |command| {
        command.wait_for("ready\r");
        command.write("line\r");
        command.wait_for("line\r\nline\r");
        command.write("\x04");
    });
    assert!(
        output.out().ends_with("line\r\nline\r\nend\r\n"),
        "{}",
        output.out()
    );
}

#[test]
fn passes_every_byte_when_raw() {
    let all: Vec<u8> = (0..=255).collect();
    let case =
        on_terminal("stty raw -echo; printf ready; head -c 256 | od -An -v -tx1 | tr -d ' \\n'");
    let output = pair().agrees_while(&case, |command| {
        command.wait_for("ready");
        command.write(&all);
    });
    let expected: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    shows(&output, &expected);
}

#[test]
fn passes_colours_and_letters() {
    let output = pair().agrees(&on_terminal(
        "printf '\\033[31mröt 日本\\033[0m\\n'; ls -d --color=auto /usr",
    ));
    shows(&output, "\u{1b}[31mröt 日本\u{1b}[0m\r\n");
    shows(&output, "\u{1b}[01;34m/usr\u{1b}[0m");
    let case = on_terminal("echo ready; read -r line; printf %s \"$line\" | od -An -tx1");
    let output = pair().agrees_while(&case, |command| {
        command.wait_for("ready\r");
        command.write("é日\r");
    });
    shows(&output, " c3 a9 e6 97 a5\r\n");
}

#[test]
fn carries_a_mebibyte() {
    let output = pair().agrees(&on_terminal("seq -f 'line %.0f' 100000 | head -c 1048576"));
    assert!(
        output.stdout.len() > 1 << 20,
        "{} bytes",
        output.stdout.len()
    );
}

#[test]
fn has_ordinary_settings() {
    let output = pair().agrees(&on_terminal("stty -a | sed 's/-onlcr/onlcr/'"));
    shows(&output, "icanon");
}

#[test]
fn knows_its_type() {
    let output = pair().agrees(&on_terminal("echo $TERM; env | grep -c ^TERM="));
    assert_eq!(output.out(), "xterm\r\n1\r\n");
}

#[test]
fn serves_an_interactive_shell() {
    let shell = Case::new(["bash", "--norc", "-i"]).terminal(24, 80);
    let case = shell.env("TERM", "dumb").env("PS1", "\\#> ");
    let output = pair().agrees_while(&case, |shell| {
        shell.wait_for("1> ");
        shell.write("printf 'run%s\\n' ning; sleep 60\r");
        shell.wait_for("running\r");
        std::thread::sleep(std::time::Duration::from_millis(500));
        shell.write("\x1a");
        shell.wait_for("2> ");
        shell.write("fg\r");
        std::thread::sleep(std::time::Duration::from_millis(500));
        shell.write("\x03");
        shell.wait_for("3> ");
        shell.write("echo $((6 * 7))\r");
        shell.wait_for("4> ");
        shell.write("exit 8\r");
    });
    assert_eq!(output.status, 8);
    shows(&output, "Stopped");
    shows(&output, "\r\n42\r\n4> ");
}

#[test]
fn hangs_up_what_is_left_behind() {
    let script = "trap '' HUP
        (exec >/dev/null 2>&1; trap 'echo hung up >/tmp/hangup; exit' HUP
            while :; do sleep 0.1; done) & trap - HUP; echo started; sleep 0.3";
    pair().agrees(&Case::new(["rm", "-f", "/tmp/hangup"]));
    pair().agrees(&on_terminal(script));
    let output = pair().agrees(&Case::sh(
        "for i in $(seq 50); do [ -s /tmp/hangup ] && break; sleep 0.1; done
        cat /tmp/hangup",
    ));
    assert_eq!(output.out(), "hung up\n");
}
