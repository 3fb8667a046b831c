//! Containers on a terminal.

use runcvm_tests::docker::Script;
use runcvm_tests::{Output, Running};

use crate::stations;

fn on_terminal(name: &str, text: &str) -> Script {
    Script::new(name, text)
        .stations(&stations::ALL)
        .terminal(24, 80)
}

#[track_caller]
fn shows(output: &Output, text: &str) {
    assert!(output.out().contains(text), "{:?}", output.out());
}

#[test]
fn of_exec_is_one() {
    let script =
        "docker exec -t $plain sh -c 'tty; test -t 0 && test -t 1 && test -t 2 && echo all'";
    shows(&on_terminal("of_exec_is_one", script).agrees(), "all");
}

#[test]
fn of_exec_has_the_user_s_size() {
    let script = "docker exec -it $plain sh -c 'until [ \"$(stty size 2>/dev/null)\" = \"24 80\" ]; do sleep 0.1; done; stty size'";
    shows(
        &on_terminal("of_exec_has_the_user_s_size", script).agrees(),
        "24 80\r\n",
    );
}

#[test]
fn of_exec_is_resized() {
    let script = "docker exec -it $plain sh -c 'echo ready; until [ \"$(stty size)\" = \"50 132\" ]; do sleep 0.1; done; echo resized'";
    let resize = |shell: &Running| {
        shell.wait_for("ready\r");
        // The client may not yet look for it.
        for width in [131, 132].repeat(20) {
            shell.resize(50, width);
            std::thread::sleep(std::time::Duration::from_millis(500));
            if shell.stdout().ends_with(b"resized\r\n") {
                break;
            }
        }
    };
    for output in on_terminal("of_exec_is_resized", script).each_while(resize) {
        shows(&output, "resized");
    }
}

#[test]
fn of_exec_interrupts() {
    let script = "docker exec -it $plain sh -c 'trap \"echo interrupted; exit 7\" INT; echo ready; while :; do sleep 0.1; done'; echo $?";
    let output = on_terminal("of_exec_interrupts", script).agrees_while(|shell| {
        shell.wait_for("ready\r");
        shell.write("\x03");
    });
    shows(&output, "interrupted\r\n7\r\n");
}

#[test]
fn of_a_run_serves_a_shell() {
    let script = "docker run --rm -it --hostname h -e PS1='> ' busybox sh; echo status $?";
    let talk = |shell: &Running| {
        shell.wait_for("> ");
        shell.write("echo $((6 * 7)); tty; echo $TERM\r");
        shell.wait_for("xterm\r");
        shell.write("exit 5\r");
    };
    // The shell echoes what it is typed when it comes to it.
    for output in on_terminal("of_a_run_serves_a_shell", script).each_while(talk) {
        shows(&output, "42\r\n/dev/pts/0\r\nxterm\r\n");
        shows(&output, "status 5\r\n");
    }
}

#[test]
fn of_a_run_has_the_user_s_size() {
    let script = "docker run --rm -it busybox sh -c 'until [ \"$(stty size 2>/dev/null)\" = \"24 80\" ]; do sleep 0.1; done; stty size'";
    shows(
        &on_terminal("of_a_run_has_the_user_s_size", script).agrees(),
        "24 80\r\n",
    );
}

fn detach(shell: &Running) {
    shell.wait_for("ready\r");
    std::thread::sleep(std::time::Duration::from_millis(500));
    shell.write("\x10");
    std::thread::sleep(std::time::Duration::from_millis(200));
    shell.write("\x11");
}

#[test]
fn can_be_detached_from_and_attached_to() {
    let script = "docker run -it --name $n busybox sh -c 'echo ready; read line; echo got $line; sleep 1'
        echo; echo detached; docker inspect -f '{{.State.Running}}' $n; docker attach $n; docker wait $n";
    let talk = |shell: &Running| {
        detach(shell);
        shell.wait_for("true\r");
        std::thread::sleep(std::time::Duration::from_secs(2));
        shell.write("typed\r");
    };
    for output in on_terminal("can_be_detached_from_and_attached_to", script).each_while(talk) {
        shows(&output, "got typed\r\n0\r\n");
    }
}

#[test]
fn in_the_background() {
    let script = "docker run -d -t --name $n busybox sh -c 'tty; echo out; echo err >&2; sleep 1000' >/dev/null
        logged $n err; docker logs $n | od -c";
    shows(
        &on_terminal("in_the_background", script).agrees(),
        "o   u   t  \\r",
    );
}
