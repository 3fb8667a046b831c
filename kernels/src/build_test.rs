use super::*;
use crate::features::{self, Config};
use crate::modules::tests::tree;

#[test]
fn every_option_of_ours_is_there_once_and_has_a_remark() {
    let mut seen = std::collections::HashSet::new();
    let lines = FRAGMENT.lines().filter(|line| line.starts_with("CONFIG_"));
    for line in lines {
        let (option, remark) = line.split_once('#').unwrap_or_else(|| panic!("{line}"));
        let (name, value) = option
            .trim()
            .split_once('=')
            .unwrap_or_else(|| panic!("{line}"));
        assert!(seen.insert(name), "{name} is there twice");
        assert!(!value.is_empty() && !remark.trim().is_empty(), "{line}");
    }
    let others = FRAGMENT.lines().filter(|line| !line.starts_with("CONFIG_"));
    for line in others {
        assert!(line.is_empty() || line.starts_with('#'), "{line}");
    }
}

#[test]
fn what_a_machine_needs_is_built_in() {
    // 64BIT is X86_64 there.
    let config = Config::parse(&(merge(FRAGMENT, "") + "CONFIG_X86_64=y\n"));
    let (_dir, tree) = tree(&[], &[]);
    let features = features::assess(Some(&config), &tree);
    assert_eq!(features::missing(&features), Vec::<String>::new());
}

#[test]
fn later_lines_win() {
    let ours = "# Ours\nCONFIG_A=y   # a\nCONFIG_B=m # b\n\nCONFIG_C=\"c\"\n";
    assert_eq!(merge(ours, ""), "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=\"c\"\n");
    assert_eq!(
        merge(ours, "CONFIG_B=n\n#x\nCONFIG_D=y\n"),
        "CONFIG_A=y\nCONFIG_C=\"c\"\nCONFIG_B=n\nCONFIG_D=y\n"
    );
}

#[test]
fn lines_that_are_not_taken_are_found() {
    let real = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_E=m\nCONFIG_F_MORE=y\n";
    let wanted = "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=y\nCONFIG_D=n\nCONFIG_E=y\nCONFIG_F=n\n";
    assert_eq!(not_taken(wanted, real), ["CONFIG_C=y", "CONFIG_E=y"]);
    assert_eq!(not_taken("CONFIG_A=n\n", real), ["CONFIG_A=n"]);
}

#[test]
fn nothing_of_the_environment_gets_into_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let makefile = "all:\n\t@env; echo RUSTC=$(RUSTC) PAHOLE=$(PAHOLE)\n";
    fs::write(dir.path().join("Makefile"), makefile).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join("Makefile"));
    let released = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.unwrap().set_modified(released).unwrap();
    let tree = Tree {
        path: dir.path().into(),
        jobs: Some(1),
    };
    let mut lines = Vec::new();
    watch("make", &mut tree.make(), &mut |line| {
        lines.push(line.to_owned())
    })
    .unwrap();
    assert_eq!(lines.pop().unwrap(), "RUSTC=none PAHOLE=none");
    let has = |line: &str| lines.iter().any(|l| l == line);
    assert!(has("KBUILD_BUILD_TIMESTAMP=2001-09-09T01:46:40Z") && has("KBUILD_BUILD_USER=runcvm"));
    // Cargo, which runs this, sets dozens.
    let others = lines.iter().filter(|line| line.starts_with("CARGO"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn compiled_files_are_seen() {
    assert_eq!(
        compiled_file("  CC      kernel/fork.o"),
        Some("kernel/fork.o")
    );
    assert_eq!(
        compiled_file("  CC [M]  net/tls/tls.o"),
        Some("net/tls/tls.o")
    );
    assert_eq!(
        compiled_file("  AS      arch/x86/x.o"),
        Some("arch/x86/x.o")
    );
    for other in ["  LD      vmlinux", "CC x", "", "  CC"] {
        assert_eq!(compiled_file(other), None, "{other:?}");
    }
}

#[test]
fn a_program_that_fails_has_last_words() {
    let mut lines = Vec::new();
    let script = "for i in $(seq 20); do echo $i; done; echo bad >&2; exit 3";
    let mut command = Command::new("sh");
    let result = watch("sh", command.args(["-c", script]), &mut |line| {
        lines.push(line.to_owned())
    });
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with("sh failed") && error.ends_with("\n20\nbad"),
        "{error}"
    );
    assert!(!error.contains("\n8\n"), "{error}");
    assert_eq!(lines.len(), 21);
    assert!(run("sh", Command::new("sh").args(["-c", "echo x"])).is_ok());
}
