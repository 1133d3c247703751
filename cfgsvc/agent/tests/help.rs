//! The help of `cfgagent` and of its commands, as whoever asks for it sees it.

use std::fmt::Write as _;
use std::process::Command;

use expect_test::expect_file;

#[test]
fn every_command_has_a_help_with_an_example() {
    let mut all = String::new();
    for command in [&[][..], &["run"], &["verdict"]] {
        let mut cfgagent = Command::new(env!("CARGO_BIN_EXE_cfgagent"));
        // What is in the environment is in the help.
        cfgagent.env_clear().args(command).arg("--help");
        let output = cfgagent.output().expect("cfgagent runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(
            help.contains("Example: cfgagent"),
            "{command:?} has no example"
        );
        let wide = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{command:?} is too wide");
        let words = [command, &["--help"]].concat().join(" ");
        writeln!(all, "$ cfgagent {words}\n{help}").expect("a text takes all");
    }
    expect_file!["help.txt"].assert_eq(&all);
}
