//! `rollback`: the plan, what it does, and what keeps it from being done.

use crate::Session;
use anyhow::{Context, Result, ensure};
use expect_test::expect;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Output, Stdio};

#[test]
fn a_key_is_rolled_back_as_a_new_version() -> Result<()> {
    let session = Session::start_group()?;
    session.data(&["set", "k", "one", "--author", "ann", "--reason", "first"])?;
    session.data(&[
        "set",
        "k",
        "two",
        "--author",
        "bob",
        "--reason",
        "second try",
    ])?;
    session.data(&["del", "k", "--author", "cid"])?;
    session.check(
        "rollback k --to 2 --dry-run
         rollback k --to 2 --dry-run -o json
         rollback k --to 2
         get k
         rollback k --to 2 --yes --author dee
         rollback k --to 2 --yes
         rollback k --to 2 --yes -o json
         rollback k --to 2 --dry-run -o json
         rollback k --to 4 --yes -o json --reason=again
         history k
         rollback k --to 4 --yes
         rollback k --to 1 --yes
         rollback never --to 2 --yes
         rollback k --to 99 --yes
         rollback '' --to 2 --yes
         rollback k",
        expect![[r#"
            $ cfgctl rollback k --to 2 --dry-run
            --- k at revision 4 (does not exist)
            +++ k as at revision 2
            @@ -0,0 +1 @@
            +one
            UNDOES  TIME                      AUTHOR  REASON      CHANGE
            3       2000-01-01T00:00:00.000Z  bob     second try  put
            4       2000-01-01T00:00:00.000Z  cid     -           delete
            | nothing was written
            $ cfgctl rollback k --to 2 --dry-run -o json
            {
              "at_revision": 4,
              "changes": [
                {
                  "after": {
                    "value": "one"
                  },
                  "before": null,
                  "change": "put",
                  "key": "k",
                  "undone": {
                    "changes": [
                      {
                        "author": "bob",
                        "event": "put",
                        "reason": "second try",
                        "revision": 3,
                        "time": "2000-01-01T00:00:00.000Z"
                      },
                      {
                        "author": "cid",
                        "event": "delete",
                        "reason": "",
                        "revision": 4,
                        "time": "2000-01-01T00:00:00.000Z"
                      }
                    ],
                    "more": false
                  }
                }
              ],
              "to_revision": 2
            }
            | nothing was written
            $ cfgctl rollback k --to 2
            | --- k at revision 4 (does not exist)
            | +++ k as at revision 2
            | @@ -0,0 +1 @@
            | +one
            | UNDOES  TIME                      AUTHOR  REASON      CHANGE
            | 3       2000-01-01T00:00:00.000Z  bob     second try  put
            | 4       2000-01-01T00:00:00.000Z  cid     -           delete
            | this writes 1 key: back to revision 2
            | error: this needs your consent, and there is no terminal to ask
            |
            | hint: repeat the command with `--yes`
            exit 2
            $ cfgctl get k
            | error: key `k` does not exist
            |
            | hint: `cfgctl get --prefix --keys-only k` lists the keys that begin so
            exit 1
            $ cfgctl rollback k --to 2 --yes --author dee
            CHANGE  REVISION  KEY
            put     5         k
            | --- k at revision 4 (does not exist)
            | +++ k as at revision 2
            | @@ -0,0 +1 @@
            | +one
            | UNDOES  TIME                      AUTHOR  REASON      CHANGE
            | 3       2000-01-01T00:00:00.000Z  bob     second try  put
            | 4       2000-01-01T00:00:00.000Z  cid     -           delete
            | this writes 1 key: back to revision 2
            $ cfgctl rollback k --to 2 --yes
            CHANGE  REVISION  KEY
            | nothing differs between revision 2 and now (revision 5): nothing was written
            $ cfgctl rollback k --to 2 --yes -o json
            {
              "changes": [],
              "revision": null,
              "to_revision": 2
            }
            | nothing differs between revision 2 and now (revision 5): nothing was written
            $ cfgctl rollback k --to 2 --dry-run -o json
            {
              "at_revision": 5,
              "changes": [],
              "to_revision": 2
            }
            | nothing was written
            $ cfgctl rollback k --to 4 --yes -o json --reason=again
            {
              "changes": [
                {
                  "change": "delete",
                  "key": "k"
                }
              ],
              "revision": 6,
              "to_revision": 4
            }
            | --- k at revision 5
            | +++ k as at revision 4 (does not exist)
            | @@ -1 +0,0 @@
            | -one
            | UNDOES  TIME                      AUTHOR  REASON                  CHANGE
            | 5       2000-01-01T00:00:00.000Z  dee     rollback to revision 2  put
            | this deletes 1 key: back to revision 4
            $ cfgctl history k
            REVISION  TIME                      AUTHOR  REASON                  CHANGE  VALUE
            2         2000-01-01T00:00:00.000Z  ann     first                   put     one
            3         2000-01-01T00:00:00.000Z  bob     second try              put     two
            4         2000-01-01T00:00:00.000Z  cid     -                       delete  -
            5         2000-01-01T00:00:00.000Z  dee     rollback to revision 2  put     one
            6         2000-01-01T00:00:00.000Z  -       again                   delete  -
            $ cfgctl rollback k --to 4 --yes
            | error: key `k` does not exist, and did not at revision 4
            |
            | hint: `cfgctl history k` prints its versions
            exit 1
            $ cfgctl rollback k --to 1 --yes
            | error: key `k` does not exist, and did not at revision 1
            |
            | hint: `cfgctl history k` prints its versions
            exit 1
            $ cfgctl rollback never --to 2 --yes
            | error: key `never` does not exist, and did not at revision 2
            |
            | hint: `cfgctl history never` prints its versions
            exit 1
            $ cfgctl rollback k --to 99 --yes
            | error: revision 99 is in the future
            |
            | hint: `cfgctl status` prints the current revision
            exit 1
            $ cfgctl rollback '' --to 2 --yes
            | error: the key is empty
            exit 1
            $ cfgctl rollback k
            | error: the following required arguments were not provided:
            |   --to <REV>
            |
            | Usage: cfgctl rollback --to <REV> --endpoints <A,B,C> <KEY>
            |
            | For more information, try '--help'.
            exit 2
        "#]],
    )
}

#[test]
fn a_rollback_keeps_the_lease_of_now() -> Result<()> {
    let mut session = Session::start_group()?;
    let lease = || -> Result<String> {
        let args = ["lease", "grant", "1h", "-o", "json"];
        let granted: Value = serde_json::from_str(&session.data(&args)?)?;
        Ok(granted["lease"].as_str().context("an id")?.to_owned())
    };
    let (first, second) = (lease()?, lease()?);
    session.call(first.clone(), "LEASE1");
    session.call(second.clone(), "LEASE2");
    session.data(&["set", "k", "one", "--lease", &first])?;
    session.data(&["set", "k", "two", "--lease", &second])?;
    session.data(&["set", "n", "one", "--lease", &first])?;
    session.data(&["set", "n", "two"])?;
    session.check(
        "diff k
         rollback k --to 2 --yes
         get k -o json
         rollback n --to 4 --yes
         get n -o json",
        expect![[r#"
            $ cfgctl diff k
            --- k at revision 2
            +++ k at revision 5
            lease LEASE1 before, LEASE2 after
            @@ -1 +1 @@
            -one
            +two
            $ cfgctl rollback k --to 2 --yes
            CHANGE  REVISION  KEY
            put     6         k
            | --- k at revision 5
            | +++ k as at revision 2
            | @@ -1 +1 @@
            | -two
            | +one
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 3       2000-01-01T00:00:00.000Z  -       -       put
            | this writes 1 key: back to revision 2
            $ cfgctl get k -o json
            {
              "count": 1,
              "kvs": [
                {
                  "create_revision": 2,
                  "key": "k",
                  "lease": "LEASE2",
                  "mod_revision": 6,
                  "value": "one",
                  "version": 3
                }
              ],
              "more": false,
              "revision": 6
            }
            $ cfgctl rollback n --to 4 --yes
            CHANGE  REVISION  KEY
            put     7         n
            | --- n at revision 6
            | +++ n as at revision 4
            | @@ -1 +1 @@
            | -two
            | +one
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 5       2000-01-01T00:00:00.000Z  -       -       put
            | this writes 1 key: back to revision 4
            $ cfgctl get n -o json
            {
              "count": 1,
              "kvs": [
                {
                  "create_revision": 4,
                  "key": "n",
                  "mod_revision": 7,
                  "value": "one",
                  "version": 3
                }
              ],
              "more": false,
              "revision": 7
            }
        "#]],
    )
}

#[test]
fn all_below_a_prefix_is_rolled_back_at_once() -> Result<()> {
    let session = Session::start_group()?;
    for (key, value) in [
        ("app/a", "1"),
        ("app/b", "2"),
        ("app/c", "3"),
        ("app/e", "4"),
    ] {
        session.data(&["set", key, value])?;
    }
    session.data(&["set", "app/b", "two", "--author", "bob"])?;
    session.data(&["del", "app/a"])?;
    session.data(&["set", "app/d", "new"])?;
    // Written, and the same again.
    session.data(&["set", "app/e", "5"])?;
    session.data(&["set", "app/e", "4"])?;
    session.check(
        "rollback --prefix app/ --to 5 --dry-run
         rollback --prefix app/ --to 5
         rollback --prefix app/ --to 5 --yes
         get --prefix app/
         rollback --prefix app/ --to 5 --yes
         rollback --prefix app/ --to 9 --yes -o json
         rollback --prefix none/ --to 5 --yes
         history app/a",
        expect![[r#"
            $ cfgctl rollback --prefix app/ --to 5 --dry-run
            --- app/a at revision 10 (does not exist)
            +++ app/a as at revision 5
            @@ -0,0 +1 @@
            +1
            UNDOES  TIME                      AUTHOR  REASON  CHANGE
            7       2000-01-01T00:00:00.000Z  -       -       delete
            --- app/b at revision 10
            +++ app/b as at revision 5
            @@ -1 +1 @@
            -two
            +2
            UNDOES  TIME                      AUTHOR  REASON  CHANGE
            6       2000-01-01T00:00:00.000Z  bob     -       put
            --- app/d at revision 10
            +++ app/d as at revision 5 (does not exist)
            @@ -1 +0,0 @@
            -new
            UNDOES  TIME                      AUTHOR  REASON  CHANGE
            8       2000-01-01T00:00:00.000Z  -       -       put
            | nothing was written
            $ cfgctl rollback --prefix app/ --to 5
            | --- app/a at revision 10 (does not exist)
            | +++ app/a as at revision 5
            | @@ -0,0 +1 @@
            | +1
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 7       2000-01-01T00:00:00.000Z  -       -       delete
            | --- app/b at revision 10
            | +++ app/b as at revision 5
            | @@ -1 +1 @@
            | -two
            | +2
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 6       2000-01-01T00:00:00.000Z  bob     -       put
            | --- app/d at revision 10
            | +++ app/d as at revision 5 (does not exist)
            | @@ -1 +0,0 @@
            | -new
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 8       2000-01-01T00:00:00.000Z  -       -       put
            | this writes 2 keys and deletes 1 key: back to revision 5
            | error: this needs your consent, and there is no terminal to ask
            |
            | hint: repeat the command with `--yes`
            exit 2
            $ cfgctl rollback --prefix app/ --to 5 --yes
            CHANGE  REVISION  KEY
            put     11        app/a
            put     11        app/b
            delete  11        app/d
            | --- app/a at revision 10 (does not exist)
            | +++ app/a as at revision 5
            | @@ -0,0 +1 @@
            | +1
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 7       2000-01-01T00:00:00.000Z  -       -       delete
            | --- app/b at revision 10
            | +++ app/b as at revision 5
            | @@ -1 +1 @@
            | -two
            | +2
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 6       2000-01-01T00:00:00.000Z  bob     -       put
            | --- app/d at revision 10
            | +++ app/d as at revision 5 (does not exist)
            | @@ -1 +0,0 @@
            | -new
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 8       2000-01-01T00:00:00.000Z  -       -       put
            | this writes 2 keys and deletes 1 key: back to revision 5
            $ cfgctl get --prefix app/
            KEY    REVISION  VERSION  LEASE  VALUE
            app/a  11        1        -      1
            app/b  11        3        -      2
            app/c  4         1        -      3
            app/e  10        3        -      4
            $ cfgctl rollback --prefix app/ --to 5 --yes
            CHANGE  REVISION  KEY
            | nothing differs between revision 5 and now (revision 11): nothing was written
            $ cfgctl rollback --prefix app/ --to 9 --yes -o json
            {
              "changes": [
                {
                  "change": "delete",
                  "key": "app/a"
                },
                {
                  "change": "put",
                  "key": "app/b"
                },
                {
                  "change": "put",
                  "key": "app/d"
                },
                {
                  "change": "put",
                  "key": "app/e"
                }
              ],
              "revision": 12,
              "to_revision": 9
            }
            | --- app/a at revision 11
            | +++ app/a as at revision 9 (does not exist)
            | @@ -1 +0,0 @@
            | -1
            | UNDOES  TIME                      AUTHOR  REASON                  CHANGE
            | 11      2000-01-01T00:00:00.000Z  -       rollback to revision 5  put
            | --- app/b at revision 11
            | +++ app/b as at revision 9
            | @@ -1 +1 @@
            | -2
            | +two
            | UNDOES  TIME                      AUTHOR  REASON                  CHANGE
            | 11      2000-01-01T00:00:00.000Z  -       rollback to revision 5  put
            | --- app/d at revision 11 (does not exist)
            | +++ app/d as at revision 9
            | @@ -0,0 +1 @@
            | +new
            | UNDOES  TIME                      AUTHOR  REASON                  CHANGE
            | 11      2000-01-01T00:00:00.000Z  -       rollback to revision 5  delete
            | --- app/e at revision 11
            | +++ app/e as at revision 9
            | @@ -1 +1 @@
            | -4
            | +5
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 10      2000-01-01T00:00:00.000Z  -       -       put
            | this writes 3 keys and deletes 1 key: back to revision 9
            $ cfgctl rollback --prefix none/ --to 5 --yes
            | error: no key begins with `none/`, and none did at revision 5
            exit 1
            $ cfgctl history app/a
            REVISION  TIME                      AUTHOR  REASON                  CHANGE  VALUE
            2         2000-01-01T00:00:00.000Z  -       -                       put     1
            7         2000-01-01T00:00:00.000Z  -       -                       delete  -
            11        2000-01-01T00:00:00.000Z  -       rollback to revision 5  put     1
            12        2000-01-01T00:00:00.000Z  -       rollback to revision 9  delete  -
        "#]],
    )
}

#[test]
fn more_than_a_transaction_takes_is_refused_whole() -> Result<()> {
    let session = Session::start_group()?;
    let from = session.dir().join("many");
    std::fs::create_dir(&from)?;
    for number in 0..129 {
        std::fs::write(from.join(format!("{number:03}")), "x")?;
    }
    session.data(&["import", "many", "--prefix", "m"])?;
    let large = vec![b'x'; 900_000];
    session.run_with(&["set", "large/a"], &large)?;
    session.run_with(&["set", "large/b"], &large)?;
    session.data(&["del", "--prefix", "large/", "--yes"])?;
    session.check(
        "rollback --prefix m --to 1 --yes
         get --prefix m/12 --keys-only --limit 1
         rollback --prefix large/ --to 5 --yes
         get --prefix large/",
        expect![[r#"
            $ cfgctl rollback --prefix m --to 1 --yes
            | error: what begins with `m` differs from revision 1 by more than 128 keys, which is the most that one transaction takes: nothing was done
            |
            | hint: `cfgctl diff --prefix m --rev 1` lists the keys: roll back longer prefixes, or key by key
            exit 1
            $ cfgctl get --prefix m/12 --keys-only --limit 1
            KEY    REVISION  VERSION
            m/120  2         1
            | 1 of 9 keys are shown
            $ cfgctl rollback --prefix large/ --to 5 --yes
            | error: what begins with `large/` differs from revision 5 by more than 1572864 bytes of keys and values, which is the most that one transaction takes: nothing was done
            |
            | hint: `cfgctl diff --prefix large/ --rev 5` lists the keys: roll back longer prefixes, or key by key
            exit 1
            $ cfgctl get --prefix large/
            KEY  REVISION  VERSION  LEASE  VALUE
        "#]],
    )?;
    // One fewer is as many as a transaction takes.
    session.data(&["del", "m/000"])?;
    let args = [
        "rollback", "--prefix", "m", "--to", "1", "--yes", "-o", "json",
    ];
    let done: Value = serde_json::from_str(&session.data(&args)?)?;
    ensure!(
        done["changes"].as_array().map(Vec::len) == Some(128),
        "{done}"
    );
    session.check(
        "get --prefix m --keys-only",
        expect![[r#"
        $ cfgctl get --prefix m --keys-only
        KEY  REVISION  VERSION
    "#]],
    )
}

#[test]
fn a_change_after_the_plan_is_not_overwritten() -> Result<()> {
    let session = Session::start_group()?;
    session.data(&["set", "app/a", "one"])?;
    session.data(&["set", "app/b", "one"])?;
    session.data(&["set", "app/a", "two"])?;
    session.data(&["set", "app/b", "two"])?;
    let (output, shown) = asked(
        &session,
        &["rollback", "--prefix", "app/", "--to", "3"],
        || session.data(&["set", "app/b", "three"]).map(drop),
    )?;
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty(),
        "{output:?}"
    );
    ensure!(
        shown.contains(
            "error: key `app/b` was changed at revision 6, after the plan was made at revision 5: \
             nothing was done"
        ),
        "{shown}"
    );
    let (output, shown) = asked(&session, &["rollback", "app/a", "--to", "2"], || {
        session.data(&["del", "app/a"]).map(drop)
    })?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        shown.contains("error: key `app/a` was deleted, after"),
        "{shown}"
    );
    session.check(
        "get --prefix app/",
        expect![[r#"
        $ cfgctl get --prefix app/
        KEY    REVISION  VERSION  LEASE  VALUE
        app/b  6         3        -      three
    "#]],
    )?;
    // Nobody comes in between.
    let (output, shown) = asked(&session, &["rollback", "app/b", "--to", "2"], || Ok(()))?;
    ensure!(
        output.status.success() && shown.contains("-three"),
        "{shown}"
    );
    session.check(
        "get --prefix app/",
        expect![[r#"
        $ cfgctl get --prefix app/
        KEY  REVISION  VERSION  LEASE  VALUE
    "#]],
    )
}

/// Runs a command line at a terminal, and answers yes when it asks, after `meanwhile`; returns its
/// output, and what the terminal showed.
fn asked(
    session: &Session,
    args: &[&str],
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<(Output, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let terminal = || -> Result<File> {
        let path = OsStr::from_bytes(name.as_bytes());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed());
        Ok(options.open(path)?)
    };
    let child = session
        .command(args)
        .args(["--color", "never"])
        .stdin(terminal()?)
        .stderr(terminal()?)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut master = File::from(master);
    let mut shown = Vec::new();
    let question = b"type yes to go on:";
    while !shown.windows(question.len()).any(|part| part == question) {
        let mut part = [0; 4096];
        let read = master
            .read(&mut part)
            .with_context(|| format!("it never asks: {}", String::from_utf8_lossy(&shown)))?;
        shown.extend_from_slice(&part[..read]);
    }
    meanwhile()?;
    master.write_all(b"yes\n")?;
    let output = child.wait_with_output()?;
    // The end of a terminal that nobody else holds is an error.
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = master.read(&mut part) {
        shown.extend_from_slice(&part[..read]);
    }
    Ok((output, String::from_utf8(shown)?))
}

#[test]
fn of_a_long_history_the_newest_changes_are_named() -> Result<()> {
    let session = Session::start_group()?;
    for number in 0..30 {
        session.data(&["set", "small", &number.to_string()])?;
    }
    for number in 0..21_u8 {
        let value = vec![b'a' + number; 1_500_000];
        ensure!(
            session
                .run_with(&["set", "large", "--timeout", "1m"], &value)?
                .status
                .success()
        );
    }
    let undone = |key: &str| -> Result<Value> {
        // Much time, so that a slow machine is not taken for a group that is away.
        let args = [
            "rollback",
            key,
            "--to",
            "2",
            "--dry-run",
            "-o",
            "json",
            "--timeout",
            "1m",
        ];
        let mut plan: Value = serde_json::from_str(&session.data(&args)?)?;
        Ok(plan["changes"][0]["undone"].take())
    };
    let small = undone("small")?;
    let changes = small["changes"].as_array().context("a list")?;
    ensure!(changes.len() == 20 && small["more"] == true, "{small}");
    ensure!(
        changes[0]["revision"] == 12 && changes[19]["revision"] == 31,
        "{small}"
    );
    let large = undone("large")?;
    let changes = large["changes"].as_array().context("a list")?;
    ensure!(
        changes.len() == 20 && changes[19]["revision"] == 52,
        "{large}"
    );
    Ok(())
}

#[test]
fn keys_of_any_bytes_are_planned_and_rolled_back() -> Result<()> {
    let session = Session::start_group()?;
    let key = OsStr::from_bytes(b"odd/\xff key\n");
    let cfgctl = |args: &[&str]| -> Result<String> {
        let output = session.command(args).arg(key).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    for value in ["one", "two"] {
        let output = session.command(&["set"]).arg(key).arg(value).output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    let text = cfgctl(&["diff"])?
        + &cfgctl(&["rollback", "--to", "2", "--yes"])?
        + &cfgctl(&["rollback", "--to", "3", "--yes", "-o", "json"])?;
    expect![[r#"
        --- odd/\xff key\n at revision 2
        +++ odd/\xff key\n at revision 3
        @@ -1 +1 @@
        -one
        +two
        CHANGE  REVISION  KEY
        put     4         odd/\xff key\n
        {
          "changes": [
            {
              "change": "put",
              "key": "b2RkL/8ga2V5Cg==",
              "key_encoding": "base64"
            }
          ],
          "revision": 5,
          "to_revision": 3
        }
    "#]]
    .assert_eq(&text);
    session.check(
        "rollback --prefix odd/ --to 2 --yes
         diff --prefix odd/ --rev 2",
        expect![[r#"
            $ cfgctl rollback --prefix odd/ --to 2 --yes
            CHANGE  REVISION  KEY
            put     6         odd/\xff key\n
            | --- odd/\xff key\n at revision 5
            | +++ odd/\xff key\n as at revision 2
            | @@ -1 +1 @@
            | -two
            | +one
            | UNDOES  TIME                      AUTHOR  REASON                  CHANGE
            | 3       2000-01-01T00:00:00.000Z  -       -                       put
            | 4       2000-01-01T00:00:00.000Z  -       rollback to revision 2  put
            | 5       2000-01-01T00:00:00.000Z  -       rollback to revision 3  put
            | this writes 1 key: back to revision 2
            $ cfgctl diff --prefix odd/ --rev 2
            CHANGE   BEFORE  AFTER  KEY
            changed  2       6      odd/\xff key\n
            | 0 keys added, 0 removed, 1 changed from revision 2 to 6
        "#]],
    )
}

#[test]
fn an_etcd_without_history_is_compared_and_rolled_back_too() -> Result<()> {
    let session = Session::start()?;
    session.data(&["set", "k", "one"])?;
    session.data(&["set", "k", "two"])?;
    session.data(&["set", "k", "three"])?;
    session.check(
        "diff k
         rollback k --to 2 --yes
         del k
         diff k
         diff k --rev 5
         compact 4
         diff k --rev 2",
        expect![[r#"
            $ cfgctl diff k
            --- k at revision 3
            +++ k at revision 4
            @@ -1 +1 @@
            -two
            +three
            $ cfgctl rollback k --to 2 --yes
            CHANGE  REVISION  KEY
            put     5         k
            | --- k at revision 4
            | +++ k as at revision 2
            | @@ -1 +1 @@
            | -three
            | +one
            | who made the changes is not known: the member keeps no such history
            | this writes 1 key: back to revision 2
            $ cfgctl del k
            DELETED  REVISION
            1        6
            $ cfgctl diff k
            | error: key `k` does not exist at revision 6
            |
            | hint: give the revision to compare with by `--rev`
            exit 1
            $ cfgctl diff k --rev 5
            --- k at revision 5
            +++ k at revision 6 (does not exist)
            @@ -1 +0,0 @@
            -one
            $ cfgctl compact 4
            COMPACTED
            4
            $ cfgctl diff k --rev 2
            | error: revision 2 is compacted
            |
            | hint: the first one after it that can be read is 4: give that or a later one
            exit 1
        "#]],
    )
}
