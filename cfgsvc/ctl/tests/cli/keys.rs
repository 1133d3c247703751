//! Commands about keys, transactions and leases.

use crate::Session;
use anyhow::{Context, Result, ensure};
use expect_test::expect;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Output, Stdio};

#[test]
fn keys_are_set_read_and_deleted() -> Result<()> {
    let session = Session::start()?;
    session.check(
        "set app/flags on
         set app/flags off --prev
         set app/mode blue -o json
         get app/flags
         get app/flags -o json
         get --prefix app/ --keys-only
         get --prefix app/ --limit 1
         get -v app/flags
         get app/flags --rev 2
         get --prefix nothing/
         get app/absent
         get app/mode --rev 2
         get app/flags --rev 99
         del app/flags
         del app/flags
         del --prefix app/
         del --prefix app/ --yes -o json
         del --prefix app/ --yes
         compact 3
         compact 3
         get app/flags --rev 2",
        expect![[r#"
            $ cfgctl set app/flags on
            KEY        REVISION
            app/flags  2
            $ cfgctl set app/flags off --prev
            KEY        REVISION  REPLACED  PREVIOUS
            app/flags  3         2         on
            $ cfgctl set app/mode blue -o json
            {
              "key": "app/mode",
              "revision": 4
            }
            $ cfgctl get app/flags
            KEY        REVISION  VERSION  LEASE  VALUE
            app/flags  3         2        -      off
            $ cfgctl get app/flags -o json
            {
              "count": 1,
              "kvs": [
                {
                  "create_revision": 2,
                  "key": "app/flags",
                  "mod_revision": 3,
                  "value": "off",
                  "version": 2
                }
              ],
              "more": false,
              "revision": 4
            }
            $ cfgctl get --prefix app/ --keys-only
            KEY        REVISION  VERSION
            app/flags  3         2
            app/mode   4         1
            $ cfgctl get --prefix app/ --limit 1
            KEY        REVISION  VERSION  LEASE  VALUE
            app/flags  3         2        -      off
            | 1 of 2 keys are shown
            $ cfgctl get -v app/flags
            off
            $ cfgctl get app/flags --rev 2
            KEY        REVISION  VERSION  LEASE  VALUE
            app/flags  2         1        -      on
            $ cfgctl get --prefix nothing/
            KEY  REVISION  VERSION  LEASE  VALUE
            $ cfgctl get app/absent
            | error: key `app/absent` does not exist
            |
            | hint: `cfgctl get --prefix --keys-only app/absent` lists the keys that begin so
            exit 1
            $ cfgctl get app/mode --rev 2
            | error: key `app/mode` does not exist at revision 2
            |
            | hint: `cfgctl history app/mode` prints its versions
            exit 1
            $ cfgctl get app/flags --rev 99
            | error: revision 99 is in the future
            |
            | hint: `cfgctl status` prints the current revision
            exit 1
            $ cfgctl del app/flags
            DELETED  REVISION
            1        5
            $ cfgctl del app/flags
            | error: key `app/flags` does not exist
            exit 1
            $ cfgctl del --prefix app/
            | this deletes what begins with `app/`: 1 key
            | error: this needs your consent, and there is no terminal to ask
            |
            | hint: repeat the command with `--yes`
            exit 2
            $ cfgctl del --prefix app/ --yes -o json
            {
              "deleted": 1,
              "revision": 6
            }
            | this deletes what begins with `app/`: 1 key
            $ cfgctl del --prefix app/ --yes
            | error: no key begins with `app/`
            exit 1
            $ cfgctl compact 3
            COMPACTED
            3
            $ cfgctl compact 3
            | error: revision 3 is compacted already
            exit 1
            $ cfgctl get app/flags --rev 2
            | error: revision 2 is compacted
            |
            | hint: read without `--rev`, or at a later revision
            exit 1
        "#]],
    )
}

#[test]
fn conditional_writes_name_what_was_found() -> Result<()> {
    let session = Session::start()?;
    session.check(
        "set k 1 --if-revision 7
         set k 1 --if-absent
         set k 2 --if-absent
         set k 2 --if-revision 9
         set k 2 --if-revision 2
         set k 3 --lease abc
         set '' x",
        expect![[r#"
            $ cfgctl set k 1 --if-revision 7
            | error: key `k` changed: expected revision r7, found no key
            |
            | hint: it does not exist: create it with `cfgctl set k ... --if-absent`
            exit 1
            $ cfgctl set k 1 --if-absent
            KEY  REVISION
            k    2
            $ cfgctl set k 2 --if-absent
            | error: key `k` exists already, since its change at revision 2
            |
            | hint: read it with `cfgctl get k`, then use `--if-revision 2`
            exit 1
            $ cfgctl set k 2 --if-revision 9
            | error: key `k` changed: expected revision r9, found r2
            |
            | hint: read it with `cfgctl get k`, then retry with `--if-revision 2`
            exit 1
            $ cfgctl set k 2 --if-revision 2
            KEY  REVISION
            k    3
            $ cfgctl set k 3 --lease abc
            | error: lease abc does not live
            |
            | hint: `cfgctl lease list` prints those that live
            exit 1
            $ cfgctl set '' x
            | error: the key is empty
            exit 1
        "#]],
    )
}

#[test]
fn values_come_from_standard_input_and_go_out_byte_for_byte() -> Result<()> {
    let session = Session::start()?;
    let bytes: Vec<u8> = (0..=255).collect();
    ensure!(session.run_with(&["set", "blob"], &bytes)?.status.success());
    ensure!(session.run(&["get", "-v", "blob"])?.stdout == bytes);
    ensure!(
        session
            .run_with(&["set", "dash", "-"], b"from stdin\n")?
            .status
            .success()
    );
    ensure!(
        session
            .run_with(&["set", "short", "-"], &[0xff, 0x00, b'a'])?
            .status
            .success()
    );
    session.check(
        "get dash
         get short
         get short -o json",
        expect![[r#"
            $ cfgctl get dash
            KEY   REVISION  VERSION  LEASE  VALUE
            dash  3         1        -      from stdin\n
            $ cfgctl get short
            KEY    REVISION  VERSION  LEASE  VALUE
            short  4         1        -      \xff\x00a
            $ cfgctl get short -o json
            {
              "count": 1,
              "kvs": [
                {
                  "create_revision": 4,
                  "encoding": "base64",
                  "key": "short",
                  "mod_revision": 4,
                  "value": "/wBh",
                  "version": 1
                }
              ],
              "more": false,
              "revision": 4
            }
        "#]],
    )?;
    session.check_with(
        &["set", "large"],
        &vec![b'x'; 1_600_000],
        expect![[r#"
        | error: the request is too large: it has 1600011 bytes
        |
        | hint: the limit is 1.5 MiB unless the group was told another one
        exit 1
    "#]],
    )
}

#[test]
fn keys_need_not_be_text() -> Result<()> {
    let session = Session::start()?;
    let key = OsStr::from_bytes(b"odd/\xff key");
    let cfgctl = |args: &[&str], more: &[&OsStr]| -> Result<Output> {
        Ok(session.command(args).args(more).output()?)
    };
    ensure!(
        cfgctl(&["set"], &[key, OsStr::from_bytes(b"\xfe")])?
            .status
            .success()
    );
    ensure!(cfgctl(&["get", "-v"], &[key])?.stdout == b"\xfe");
    let by_prefix = cfgctl(
        &["get", "--prefix", "-v"],
        &[OsStr::from_bytes(b"odd/\xff")],
    )?;
    ensure!(by_prefix.stdout == b"\xfe\n", "{by_prefix:?}");
    session.check(
        "get --prefix odd/ --keys-only -o json",
        expect![[r#"
            $ cfgctl get --prefix odd/ --keys-only -o json
            {
              "count": 1,
              "kvs": [
                {
                  "create_revision": 2,
                  "key": "b2RkL/8ga2V5",
                  "key_encoding": "base64",
                  "mod_revision": 2,
                  "version": 1
                }
              ],
              "more": false,
              "revision": 2
            }
        "#]],
    )?;
    ensure!(cfgctl(&["del"], &[key])?.status.success());
    let gone = String::from_utf8(cfgctl(&["get"], &[key])?.stderr)?;
    // The hint can be pasted into a shell.
    ensure!(
        gone.contains("--keys-only $'\\x6f\\x64\\x64\\x2f\\xff\\x20\\x6b\\x65\\x79'"),
        "{gone}"
    );
    session.check(
        "get -v odd -o json",
        expect![[r#"
            $ cfgctl get -v odd -o json
            | error: a bare value has no JSON form
            |
            | hint: leave out one of `-v` and `-o json`
            exit 2
        "#]],
    )
}

#[test]
fn a_watch_prints_a_line_for_each_change() -> Result<()> {
    let session = Session::start()?;
    session.data(&["set", "app/a", "1"])?;
    session.data(&["set", "app/b", "2"])?;
    session.data(&["del", "app/a"])?;
    session.check(
        "watch --prefix app/ --rev 2 --count 3
         watch --prefix app/ --rev 3 --count 2 -o json
         compact 4
         watch app/a --rev 2",
        expect![[r#"
            $ cfgctl watch --prefix app/ --rev 2 --count 3
            r2  put     app/a  1
            r3  put     app/b  2
            r4  delete  app/a
            | watching keys that begin with `app/`, end with Ctrl-C
            $ cfgctl watch --prefix app/ --rev 3 --count 2 -o json
            {"event":"put","kv":{"create_revision":3,"key":"app/b","mod_revision":3,"value":"2","version":1},"revision":3}
            {"event":"delete","kv":{"key":"app/a"},"revision":4}
            | watching keys that begin with `app/`, end with Ctrl-C
            $ cfgctl compact 4
            COMPACTED
            4
            $ cfgctl watch app/a --rev 2
            | watching key `app/a`, end with Ctrl-C
            | error: revision 2 is compacted, history starts at 4
            |
            | hint: read the keys now, or watch with `--rev 4`
            exit 1
        "#]],
    )?;
    // From now on: it is watching once it has said so.
    let mut child = session
        .command(&["watch", "app/live", "--count", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut notes = BufReader::new(child.stderr.take().context("it is piped")?).lines();
    let note = notes.next().context("it says what it watches")??;
    ensure!(note == "watching key `app/live`, end with Ctrl-C", "{note}");
    session.data(&["set", "app/live", "now"])?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success());
    ensure!(
        output.stdout == b"r5  put     app/live  now\n",
        "{output:?}"
    );
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_error() -> Result<()> {
    let session = Session::start()?;
    let value = "x".repeat(500_000);
    session.run_with(&["set", "long"], value.as_bytes())?;
    let mut child = session
        .command(&["get", "-v", "long"])
        .stdout(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    ensure!(child.wait()?.success());
    Ok(())
}

#[test]
fn transactions_come_from_files_and_standard_input() -> Result<()> {
    let session = Session::start()?;
    let dir = session.dir();
    std::fs::write(
        dir.join("claim"),
        "if\n missing owner\nthen\n put owner me\nelse\n get owner\n",
    )?;
    std::fs::write(dir.join("wrong"), "then\n  putt owner me\n")?;
    std::fs::write(dir.join("twice"), "then\n put a 1\n put a 2\n")?;
    std::fs::write(
        dir.join("nested"),
        r#"{"then": [{"txn": {"if": [{"key": "owner", "value": "me"}],
                              "then": [{"del": {"key": "owner"}}]}}]}"#,
    )?;
    session.check(
        "txn claim
         txn claim
         txn claim -o json
         txn nested
         txn wrong
         txn twice
         txn absent",
        expect![[r#"
            $ cfgctl txn claim
            OPERATION  RESULT
            if         held at revision 2
            put        done
            $ cfgctl txn claim
            OPERATION  RESULT
            if         did not hold at revision 2
            get        1 key
                       owner = me
            exit 1
            $ cfgctl txn claim -o json
            {
              "replies": [
                {
                  "get": {
                    "count": 1,
                    "kvs": [
                      {
                        "create_revision": 2,
                        "key": "owner",
                        "mod_revision": 2,
                        "value": "me",
                        "version": 1
                      }
                    ]
                  }
                }
              ],
              "revision": 2,
              "succeeded": false
            }
            exit 1
            $ cfgctl txn nested
            OPERATION  RESULT
            if         held at revision 3
            txn        held
              del      1 key
            $ cfgctl txn wrong
            | error: wrong: line 2, column 3: `putt` is no operation: use get, put or del
            |
            | hint: `cfgctl txn --help` describes the file
            exit 2
            $ cfgctl txn twice
            | error: the transaction writes a key twice
            exit 1
            $ cfgctl txn absent
            | error: cannot read absent
            |   because: No such file or directory (os error 2)
            exit 1
        "#]],
    )?;
    session.check_with(
        &["txn", "-"],
        b"then\n put a \"1 2\"\n get a\n",
        expect![[r#"
            OPERATION  RESULT
            if         held at revision 4
            put        done
            get        1 key
                       a = 1 2
        "#]],
    )
}

#[test]
fn leases_are_granted_shown_renewed_and_revoked() -> Result<()> {
    let mut session = Session::start()?;
    let granted: serde_json::Value =
        serde_json::from_str(&session.data(&["lease", "grant", "60s", "-o", "json"])?)?;
    let lease = granted["lease"].as_str().context("an id")?.to_owned();
    session.data(&["set", "k1", "v", "--lease", &lease])?;
    session.data(&["set", "k2", "v", "--lease", &lease])?;
    // The id's width must not move the columns.
    let shown: serde_json::Value =
        serde_json::from_str(&session.data(&["lease", "show", &lease, "-o", "json"])?)?;
    ensure!(shown["ttl_s"] == 60 && shown["keys"].as_array().context("keys")?.len() == 2);
    let table = session.data(&["lease", "show", &lease])?;
    ensure!(table.starts_with("LEASE"), "{table}");
    session.call(lease.clone(), "LEASE");
    let renewed = session.data(&["lease", "keep-alive", &lease, "--once", "-o", "json"])?;
    ensure!(renewed.contains("\"ttl_s\": 60"), "{renewed}");
    let longer = session.data(&["lease", "grant", "1500ms", "-o", "json"])?;
    let longer: serde_json::Value = serde_json::from_str(&longer)?;
    ensure!(
        longer["ttl_s"] == 2,
        "never less than was asked for: {longer}"
    );
    session.data(&[
        "lease",
        "revoke",
        longer["lease"].as_str().context("an id")?,
    ])?;
    ensure!(session.data(&["lease", "list"])?.contains(&lease));
    session.check(
        &format!(
            "lease revoke {lease} -o json
             lease revoke {lease}
             lease show {lease}
             lease keep-alive {lease}
             lease list
             lease grant 0s
             get k1"
        ),
        expect![[r#"
            $ cfgctl lease revoke LEASE -o json
            {
              "revoked": "LEASE"
            }
            $ cfgctl lease revoke LEASE
            | error: lease LEASE does not live
            |
            | hint: `cfgctl lease list` prints those that live
            exit 1
            $ cfgctl lease show LEASE
            | error: lease LEASE does not live
            |
            | hint: `cfgctl lease list` prints those that live
            exit 1
            $ cfgctl lease keep-alive LEASE
            | error: lease LEASE does not live
            |
            | hint: `cfgctl lease list` prints those that live
            exit 1
            $ cfgctl lease list
            LEASE
            $ cfgctl lease grant 0s
            | error: lease ttl 0 s is outside 1..=9000000000 s
            exit 1
            $ cfgctl get k1
            | error: key `k1` does not exist
            |
            | hint: `cfgctl get --prefix --keys-only k1` lists the keys that begin so
            exit 1
        "#]],
    )
}
