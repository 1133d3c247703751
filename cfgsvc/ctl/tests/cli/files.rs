//! Import and export, and the snapshot file.

use crate::Session;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cfgsvc_core::snapshot_file::Writer;
use cfgsvc_proto::state::{Record, SnapshotHeader};
use cfgsvc_tests::harness::Etcd;
use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

#[test]
fn a_directory_is_imported_once_and_exported_again() -> Result<()> {
    let session = Session::start()?;
    let from = session.dir().join("conf");
    fs::create_dir_all(from.join("sites/a"))?;
    fs::write(from.join("main.conf"), "workers 4\n")?;
    fs::write(from.join("sites/a/site.conf"), [0_u8, 0xff])?;
    fs::write(from.join("empty"), "")?;
    fs::write(from.join("large"), vec![b'x'; (1 << 20) + 1])?;
    symlink("/etc/passwd", from.join("link"))?;
    session.check(
        "import conf --prefix web --dry-run
         import conf --prefix web
         import conf --prefix web -o json
         get --prefix web/ --keys-only
         import conf/main.conf --prefix single
         import conf/sites --prefix / --dry-run
         import conf/main.conf --prefix /x// --dry-run
         import absent",
        expect![[r#"
            $ cfgctl import conf --prefix web --dry-run
            CHANGE  BYTES  KEY
            add     0      web/empty
            add     10     web/main.conf
            add     2      web/sites/a/site.conf
            | skipped conf/link: it is a symbolic link
            | skipped conf/large: it has more than 1048576 bytes
            | nothing was written
            $ cfgctl import conf --prefix web
            WRITTEN  UNCHANGED  SKIPPED  REVISION
            3        0          2        2
            | skipped conf/link: it is a symbolic link
            | skipped conf/large: it has more than 1048576 bytes
            $ cfgctl import conf --prefix web -o json
            {
              "revision": null,
              "skipped": 2,
              "unchanged": 3,
              "written": 0
            }
            | skipped conf/link: it is a symbolic link
            | skipped conf/large: it has more than 1048576 bytes
            $ cfgctl get --prefix web/ --keys-only
            KEY                    REVISION  VERSION
            web/empty              2         1
            web/main.conf          2         1
            web/sites/a/site.conf  2         1
            $ cfgctl import conf/main.conf --prefix single
            WRITTEN  UNCHANGED  SKIPPED  REVISION
            1        0          0        3
            $ cfgctl import conf/sites --prefix / --dry-run
            CHANGE  BYTES  KEY
            add     2      /a/site.conf
            | nothing was written
            $ cfgctl import conf/main.conf --prefix /x// --dry-run
            CHANGE  BYTES  KEY
            add     10     /x/main.conf
            | nothing was written
            $ cfgctl import absent
            | error: cannot read absent
            |   because: No such file or directory (os error 2)
            exit 1
        "#]],
    )?;
    fs::write(from.join("main.conf"), "workers 8\n")?;
    session.check(
        "import conf --prefix web
         export web out
         export web out
         export web out --force -o json
         export nothing out2",
        expect![[r#"
            $ cfgctl import conf --prefix web
            WRITTEN  UNCHANGED  SKIPPED  REVISION
            1        2          2        4
            | skipped conf/link: it is a symbolic link
            | skipped conf/large: it has more than 1048576 bytes
            $ cfgctl export web out
            FILES  REVISION
            3      4
            $ cfgctl export web out
            | error: cannot write key `web/empty` under out
            |   because: the file exists
            |
            | hint: replace files with `--force`
            exit 1
            $ cfgctl export web out --force -o json
            {
              "files": 3,
              "revision": 4
            }
            $ cfgctl export nothing out2
            | error: no key begins with `nothing`
            exit 1
        "#]],
    )?;
    ensure!(fs::read(session.dir().join("out/main.conf"))? == b"workers 8\n");
    ensure!(fs::read(session.dir().join("out/sites/a/site.conf"))? == [0, 0xff]);
    ensure!(
        fs::read_dir(session.dir().join("out"))?.count() == 3,
        "nothing temporary stays"
    );
    Ok(())
}

#[test]
fn many_files_go_in_batches() -> Result<()> {
    let session = Session::start()?;
    let from = session.dir().join("many");
    fs::create_dir(&from)?;
    for number in 0..300 {
        fs::write(from.join(format!("{number:03}")), "x".repeat(8000))?;
    }
    session.check(
        "import many",
        expect![[r#"
        $ cfgctl import many
        WRITTEN  UNCHANGED  SKIPPED  REVISION
        300      0          0        4
    "#]],
    )?;
    let keys: serde_json::Value =
        serde_json::from_str(&session.data(&["get", "--prefix", "", "-o", "json"])?)?;
    ensure!(keys["count"] == 300 && keys["more"] == false);
    let kvs = keys["kvs"].as_array().context("a list")?;
    let names: Vec<&str> = kvs.iter().filter_map(|kv| kv["key"].as_str()).collect();
    let wanted: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    ensure!(names == wanted, "pages are put together: {names:?}");
    session.data(&["export", "", "out"])?;
    ensure!(fs::read_dir(session.dir().join("out"))?.count() == 300);
    ensure!(fs::read_to_string(session.dir().join("out/299"))? == "x".repeat(8000));
    Ok(())
}

#[test]
fn an_export_leaves_other_exports_files_alone_and_nothing_of_its_own() -> Result<()> {
    let session = Session::start()?;
    session.data(&["set", "p/a", "x"])?;
    session.data(&["set", "p/b", "x"])?;
    let out = session.dir().join("out");
    fs::create_dir_all(out.join("b"))?;
    fs::write(out.join(".cfgctl-export.1"), "half")?;
    session.check(
        "export p out --force",
        expect![[r#"
            $ cfgctl export p out --force
            | error: cannot write key `p/b` under out
            |   because: Is a directory (os error 21)
            exit 1
        "#]],
    )?;
    let mut left: Vec<_> = fs::read_dir(&out)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    left.sort();
    ensure!(left == [".cfgctl-export.1", "a", "b"], "{left:?}");
    ensure!(fs::read(out.join(".cfgctl-export.1"))? == b"half");
    Ok(())
}

#[test]
fn an_export_never_leaves_its_directory() -> Result<()> {
    let session = Session::start()?;
    session.data(&["set", "bad/../../escape", "x"])?;
    session.data(&["set", "link/inner/file", "x"])?;
    session.data(&["set", "tree/both", "x"])?;
    session.data(&["set", "tree/both/below", "x"])?;
    fs::create_dir_all(session.dir().join("out"))?;
    fs::create_dir_all(session.dir().join("elsewhere"))?;
    symlink(
        session.dir().join("elsewhere"),
        session.dir().join("out/inner"),
    )?;
    session.check(
        "export bad out
         export link out
         export link out --force
         export tree out",
        expect![[r#"
            $ cfgctl export bad out
            | error: key `bad/../../escape` cannot be a file: a part of its path is `.` or `..`
            |
            | hint: nothing was written; export a longer prefix that leaves this key out
            exit 1
            $ cfgctl export link out
            | error: cannot write key `link/inner/file` under out
            |   because: a part of its path is a link or a file
            |
            | hint: links are not followed: remove it
            exit 1
            $ cfgctl export link out --force
            | error: cannot write key `link/inner/file` under out
            |   because: a part of its path is a link or a file
            |
            | hint: links are not followed: remove it
            exit 1
            $ cfgctl export tree out
            | error: key `tree/both/below` lies under another key, which cannot be a file and a directory
            exit 1
        "#]],
    )?;
    ensure!(
        fs::read_dir(session.dir().join("elsewhere"))?
            .next()
            .is_none()
    );
    ensure!(!session.dir().join("escape").exists());
    Ok(())
}

fn snapshot() -> Vec<u8> {
    let (mut writer, first) = Writer::new(SnapshotHeader {
        cluster_id: 0xabc,
        revision: 57,
        compacted_revision: 3,
        created_ms: 1_600_000_000_000,
        version: "0.1.0".into(),
        keys: 2,
        ..SnapshotHeader::default()
    });
    let mut file = first.to_vec();
    for name in ["a", "b"] {
        let record = Record {
            key: Bytes::from(name),
            value: "x".into(),
        };
        file.extend(writer.push(record).unwrap_or_default());
    }
    file.extend(writer.finish());
    file
}

#[test]
fn a_snapshot_file_is_inspected_and_a_damaged_one_refused_before_anything_is_sent() -> Result<()> {
    let session = Session::without_group()?;
    let good = snapshot();
    fs::write(session.dir().join("good"), &good)?;
    fs::write(session.dir().join("cut"), &good[..good.len() - 7])?;
    let mut flipped = good.clone();
    let last = flipped.last_mut().context("it has bytes")?;
    *last ^= 1;
    fs::write(session.dir().join("other"), b"something else entirely")?;
    session.check(
        "snapshot inspect good
         snapshot inspect good -o json
         snapshot inspect cut
         snapshot inspect other
         snapshot inspect absent
         snapshot restore cut --yes
         snapshot restore good
         snapshot restore good --yes --timeout 1s
         snapshot save good",
        expect![[r#"
            $ cfgctl snapshot inspect good
            FILE  REVISION  COMPACTED  KEYS  RECORDS  SIZE  CREATED                   SOURCE  CLUSTER  VERSION
            good  57        3          2     2        96 B  2020-09-13T12:26:40.000Z  group   abc      0.1.0
            $ cfgctl snapshot inspect good -o json
            {
              "bytes": 96,
              "cluster_id": "abc",
              "compacted_revision": 3,
              "created": "2020-09-13T12:26:40.000Z",
              "file": "good",
              "keys": 2,
              "lost_after": 0,
              "lost_until": 0,
              "records": 2,
              "recovered_from": null,
              "revision": 57,
              "version": "0.1.0"
            }
            $ cfgctl snapshot inspect cut
            | error: cut is no usable snapshot
            |   because: snapshot is cut at byte 89, expected the SHA-256
            |
            | hint: save it again with `cfgctl snapshot save`, or use another copy
            exit 1
            $ cfgctl snapshot inspect other
            | error: other is no usable snapshot
            |   because: snapshot is cut at byte 23, expected the header
            |
            | hint: save it again with `cfgctl snapshot save`, or use another copy
            exit 1
            $ cfgctl snapshot inspect absent
            | error: cannot read absent
            |   because: No such file or directory (os error 2)
            exit 1
            $ cfgctl snapshot restore cut --yes
            | error: cut is no usable snapshot
            |   because: snapshot is cut at byte 89, expected the SHA-256
            |
            | hint: save it again with `cfgctl snapshot save`, or use another copy
            exit 1
            $ cfgctl snapshot restore good
            | this fills the group at 127.0.0.1:1 from good (revision 57, 2 keys) and goes on 1000000000 revisions later
            | error: this needs your consent, and there is no terminal to ask
            |
            | hint: repeat the command with `--yes`
            exit 2
            $ cfgctl snapshot restore good --yes --timeout 1s
            | this fills the group at 127.0.0.1:1 from good (revision 57, 2 keys) and goes on 1000000000 revisions later
            | error: cannot reach the group: no connection to 127.0.0.1:1
            |   because: Connection refused (os error 111)
            |
            | hint: is a member running there? name others with `--endpoints A,B,C` or CFGCTL_ENDPOINTS
            exit 3
            $ cfgctl snapshot save good
            | error: good exists
            |
            | hint: choose another name, or replace it with `--force`
            exit 1
        "#]],
    )?;
    fs::write(session.dir().join("flipped"), &flipped)?;
    let output = session.run(&["snapshot", "inspect", "flipped"])?;
    let notes = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(1) && notes.contains("was changed"),
        "{notes}"
    );
    Ok(())
}

#[test]
fn a_snapshot_that_is_not_ours_leaves_no_file_behind() -> Result<()> {
    let session = Session::start()?;
    session.data(&["set", "k", "v"])?;
    let output = session.run(&["snapshot", "save", "etcd.snapshot"])?;
    let notes = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{notes}");
    ensure!(
        notes.starts_with("error: etcd.snapshot is no usable snapshot\n"),
        "{notes}"
    );
    ensure!(fs::read_dir(session.dir())?.next().is_none());
    Ok(())
}

#[test]
fn a_save_that_is_interrupted_leaves_no_file_behind() -> Result<()> {
    let etcd = Etcd::start()?;
    let session = Session::without_group()?;
    // A member that says nothing: the save waits in the middle.
    etcd.pause()?;
    let args = ["--timeout", "60s", "--endpoints", &etcd.endpoint()];
    let mut child = session
        .command(&args)
        .args(["snapshot", "save", "file"])
        .spawn()?;
    let partial = session.dir().join(format!("file.{}.partial", child.id()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !partial.exists() {
        ensure!(Instant::now() < deadline, "it does not begin");
    }
    ensure!(fs::metadata(&partial)?.permissions().mode() & 0o777 == 0o600);
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    ensure!(child.wait()?.code() == Some(143));
    ensure!(fs::read_dir(session.dir())?.next().is_none());
    Ok(())
}
