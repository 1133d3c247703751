//! Every command's help, and what wrong usage gets.

use crate::Session;
use anyhow::{Result, ensure};
use expect_test::{expect, expect_file};
use std::fmt::Write;

const COMMANDS: [&str; 74] = [
    "",
    "get",
    "set",
    "del",
    "watch",
    "history",
    "diff",
    "rollback",
    "txn",
    "import",
    "export",
    "lease",
    "lease grant",
    "lease revoke",
    "lease list",
    "lease show",
    "lease keep-alive",
    "lock",
    "elect",
    "colo",
    "colo add",
    "colo list",
    "colo activate",
    "colo drain",
    "colo delete",
    "host",
    "host list",
    "host delete",
    "role",
    "failover",
    "role create",
    "role list",
    "role show",
    "role grant",
    "role switch",
    "role release",
    "role pause",
    "role resume",
    "role check",
    "role delete",
    "zone",
    "zone apply",
    "zone list",
    "zone show",
    "zone history",
    "zone rollback",
    "zone delete",
    "zone follow",
    "zone unfollow",
    "zone key",
    "zone key generate",
    "zone key add",
    "zone key list",
    "zone key use",
    "zone key retire",
    "zone key remove",
    "zone key sign",
    "member",
    "member list",
    "member add",
    "member remove",
    "member promote",
    "status",
    "leader",
    "leader show",
    "leader move",
    "leader prefer",
    "snapshot",
    "snapshot save",
    "snapshot inspect",
    "snapshot restore",
    "compact",
    "completions",
    "version",
];

#[test]
fn every_command_has_a_help_with_an_example() -> Result<()> {
    let session = Session::without_group()?;
    let mut all = String::new();
    for command in COMMANDS {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let text = session.data(&args)?;
        ensure!(
            text.contains("Example: cfgctl"),
            "`{command}` has no example"
        );
        ensure!(
            text.lines().all(|line| line.chars().count() <= 100),
            "`{command}` is too wide"
        );
        for name in subcommands(&text) {
            let full = format!("{command} {name}");
            ensure!(
                COMMANDS.contains(&full.trim()),
                "`{full}` is not in the list of this test"
            );
        }
        writeln!(all, "$ cfgctl {}\n{text}", args.join(" "))?;
    }
    expect_file!["help.txt"].assert_eq(&all);
    Ok(())
}

/// The commands that a help lists.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
}

#[test]
fn wrong_usage_is_told_with_exit_code_2() -> Result<()> {
    let session = Session::without_group()?;
    session.check(
        "gett
         get
         get a --revv 3
         set a b --lease xyz
         set a b --if-revision 3 --if-absent
         get a --endpoints nonsense
         get a --timeout soon
         lock a",
        expect![[r#"
            $ cfgctl gett
            | error: unrecognized subcommand 'gett'
            |
            |   tip: some similar subcommands exist: 'set', 'get'
            |
            | Usage: cfgctl [OPTIONS] <COMMAND>
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl get
            | error: the following required arguments were not provided:
            |   <KEY>
            |
            | Usage: cfgctl get --endpoints <A,B,C> <KEY>
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl get a --revv 3
            | error: unexpected argument '--revv' found
            |
            |   tip: a similar argument exists: '--rev'
            |
            | Usage: cfgctl get --rev <N> <KEY>
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl set a b --lease xyz
            | error: invalid value 'xyz' for '--lease <ID>': a lease id is a hexadecimal number of at most 63 bits
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl set a b --if-revision 3 --if-absent
            | error: the argument '--if-revision <N>' cannot be used with '--if-absent'
            |
            | Usage: cfgctl set --if-revision <N> --endpoints <A,B,C> <KEY> <VALUE>
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl get a --endpoints nonsense
            | error: endpoint `nonsense` is not HOST:PORT or http://HOST:PORT: the port is missing
            exit 2
            $ cfgctl get a --timeout soon
            | error: invalid value 'soon' for '--timeout <TIME>': expected number at 0
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl lock a
            | error: the following required arguments were not provided:
            |   <COMMAND>...
            |
            | Usage: cfgctl lock --endpoints <A,B,C> <NAME> -- <COMMAND>...
            |
            | For more information, try '--help'.
            exit 2
        "#]],
    )
}

#[test]
fn an_unreachable_group_is_told_with_exit_code_3() -> Result<()> {
    let session = Session::without_group()?;
    session.check(
        "get a --timeout 1s
         set a b --timeout 1s
         status --timeout 1s
         watch a --timeout 1s
         leader show --timeout 1s
         member list --timeout 1s
         snapshot save file --timeout 1s",
        expect![[r#"
            $ cfgctl get a --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl set a b --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl status --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl watch a --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl leader show --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl member list --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl snapshot save file --timeout 1s
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
        "#]],
    )
}

#[test]
fn the_version_and_completions_need_no_group() -> Result<()> {
    let session = Session::without_group()?;
    session.check(
        "version
         version -o json",
        expect![[r#"
            $ cfgctl version
            cfgctl 0.1.0
            $ cfgctl version -o json
            {
              "cfgctl": "0.1.0"
            }
        "#]],
    )?;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        ensure!(
            session.data(&["completions", shell])?.contains("cfgctl"),
            "{shell}"
        );
    }
    Ok(())
}

#[test]
fn color_is_used_when_asked_for_and_not_with_no_color() -> Result<()> {
    let session = Session::without_group()?;
    let args = ["get", "a", "--timeout", "100ms"];
    let plain = session.command(&args).output()?;
    ensure!(!plain.stderr.contains(&0x1b));
    let colored = session
        .command(&args)
        .args(["--color", "always"])
        .output()?;
    ensure!(colored.stderr.contains(&0x1b));
    let off = session.command(&args).env("NO_COLOR", "1").output()?;
    ensure!(!off.stderr.contains(&0x1b));
    Ok(())
}
