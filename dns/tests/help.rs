//! The help of `cfgdns`, as whoever asks for it sees it.

use std::process::Command;

use expect_test::expect_file;

#[test]
fn help_says_all_options_and_how_it_is_started() {
    let mut cfgdns = Command::new(env!("CARGO_BIN_EXE_cfgdns"));
    // What is in the environment is in the help.
    let output = cfgdns.env_clear().arg("--help").output();
    let output = output.expect("cfgdns runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(help.contains("Example: cfgdns"), "there is no example");
    let wide = help.lines().find(|line| line.chars().count() > 100);
    assert_eq!(wide, None, "it is too wide");
    expect_file!["help.txt"].assert_eq(&help);
}
