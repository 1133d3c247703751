//! The help of `cfgsvcd` and of its command, as whoever asks for it sees it.

use std::fmt::Write as _;
use std::process::Command;

use expect_test::expect_file;

#[test]
fn every_command_has_a_help_with_an_example() {
    let mut all = String::new();
    for command in [&[][..], &["danger-recover-lost-majority"]] {
        let mut cfgsvcd = Command::new(env!("CARGO_BIN_EXE_cfgsvcd"));
        // What is in the environment is in the help.
        cfgsvcd.env_clear().args(command).arg("--help");
        let output = cfgsvcd.output().expect("cfgsvcd runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(
            help.contains("Example: cfgsvcd"),
            "{command:?} has no example"
        );
        let wide = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{command:?} is too wide");
        let words = [command, &["--help"]].concat().join(" ");
        writeln!(all, "$ cfgsvcd {words}\n{help}").expect("a text takes all");
    }
    expect_file!["help.txt"].assert_eq(&all);
}
