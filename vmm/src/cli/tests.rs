use clap::CommandFactory;

use super::*;

#[test]
fn the_grammar_is_sound_and_every_verb_has_examples() {
    Cli::command().debug_assert();
    for verb in Cli::command()
        .get_subcommands()
        .filter(|v| !v.is_hide_set())
    {
        let help = verb.get_after_help().map(ToString::to_string);
        let name = verb.get_name();
        assert!(
            help.is_some_and(|h| h.contains(&format!("runcvm-vmm {name}"))),
            "{name}"
        );
    }
}

#[test]
fn wrong_usage_is_one_sentence() {
    for args in [
        &["run"][..],
        &["run", "--cpus", "x", "--", "true"],
        &["run", "--no-such", "--", "true"],
        &["run", "--cpus", "300", "--", "true"],
        &["fly"],
        &["exec", "--", "true"],
        &["stop"],
    ] {
        let args = ["runcvm-vmm"].iter().chain(args);
        let error = Cli::try_parse_from(args).unwrap_err();
        let sentence = usage_sentence(&error.to_string());
        assert!(
            !sentence.contains('\n') && !sentence.contains("error:"),
            "{sentence}"
        );
        assert!(
            sentence.ends_with("(see `runcvm-vmm --help`)"),
            "{sentence}"
        );
    }
}

#[test]
fn causes_follow_without_numbers_and_repetition() {
    let cause = std::io::Error::from_raw_os_error(libc::ENOENT);
    let error = anyhow::Error::new(cause).context("The disk x cannot be used");
    assert_eq!(
        sentence(&error),
        "The disk x cannot be used: No such file or directory"
    );
    assert_eq!(
        without_numbers("cannot a: No (os error 2), b: No (os error 13); c"),
        "cannot a: No, b: No; c"
    );
}
