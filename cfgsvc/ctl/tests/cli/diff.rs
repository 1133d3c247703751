//! `diff`: two versions of a key, and what changed below a prefix.

use crate::Session;
use anyhow::{Context, Result, ensure};
use expect_test::expect;
use serde_json::Value;

#[test]
fn two_versions_of_a_key_are_compared() -> Result<()> {
    let session = Session::start_group()?;
    session.run_with(&["set", "app/conf"], b"workers 4\nlog info\nport 80\n")?;
    session.run_with(&["set", "app/conf"], b"workers 8\nlog info\nport 80\n")?;
    session.data(&["set", "other", "x"])?;
    session.run_with(&["set", "app/conf"], b"workers 8\nlog info\nport 81\n")?;
    session.check(
        "diff app/conf
         diff app/conf --rev 2
         diff app/conf --rev 2 --to 3
         diff app/conf --rev 3 --to 2
         diff app/conf --rev 1
         diff app/conf --rev 3 --to 4
         diff other -o json
         diff app/conf --to 3 -o json
         diff app/conf --rev 99
         diff app/absent
         diff app/absent --rev 2
         diff ''
         diff app/conf --rev 0",
        expect![[r#"
            $ cfgctl diff app/conf
            --- app/conf at revision 3
            +++ app/conf at revision 5
            @@ -1,3 +1,3 @@
             workers 8
             log info
            -port 80
            +port 81
            $ cfgctl diff app/conf --rev 2
            --- app/conf at revision 2
            +++ app/conf at revision 5
            @@ -1,3 +1,3 @@
            -workers 4
            +workers 8
             log info
            -port 80
            +port 81
            $ cfgctl diff app/conf --rev 2 --to 3
            --- app/conf at revision 2
            +++ app/conf at revision 3
            @@ -1,3 +1,3 @@
            -workers 4
            +workers 8
             log info
             port 80
            $ cfgctl diff app/conf --rev 3 --to 2
            --- app/conf at revision 3
            +++ app/conf at revision 2
            @@ -1,3 +1,3 @@
            -workers 8
            +workers 4
             log info
             port 80
            $ cfgctl diff app/conf --rev 1
            --- app/conf at revision 1 (does not exist)
            +++ app/conf at revision 5
            @@ -0,0 +1,3 @@
            +workers 8
            +log info
            +port 81
            $ cfgctl diff app/conf --rev 3 --to 4
            --- app/conf at revision 3
            +++ app/conf at revision 4
            the value is the same
            $ cfgctl diff other -o json
            {
              "after": {
                "create_revision": 4,
                "key": "other",
                "mod_revision": 4,
                "value": "x",
                "version": 1
              },
              "before": null,
              "changed": true,
              "from_revision": 3,
              "key": "other",
              "to_revision": 5
            }
            $ cfgctl diff app/conf --to 3 -o json
            {
              "after": {
                "create_revision": 2,
                "key": "app/conf",
                "mod_revision": 3,
                "value": "workers 8\nlog info\nport 80\n",
                "version": 2
              },
              "before": {
                "create_revision": 2,
                "key": "app/conf",
                "mod_revision": 2,
                "value": "workers 4\nlog info\nport 80\n",
                "version": 1
              },
              "changed": true,
              "from_revision": 2,
              "key": "app/conf",
              "to_revision": 3
            }
            $ cfgctl diff app/conf --rev 99
            | error: revision 99 is in the future
            |
            | hint: `cfgctl status` prints the current revision
            exit 1
            $ cfgctl diff app/absent
            | error: key `app/absent` does not exist at revision 5
            |
            | hint: it was never set; `cfgctl get --prefix --keys-only app/absent` lists the keys that begin so
            exit 1
            $ cfgctl diff app/absent --rev 2
            | error: key `app/absent` exists neither at revision 2 nor at revision 5
            |
            | hint: `cfgctl history app/absent` prints its versions
            exit 1
            $ cfgctl diff ''
            | error: the key is empty
            exit 1
            $ cfgctl diff app/conf --rev 0
            | error: invalid value '0' for '--rev <N>': 0 is not in 1..9223372036854775807
            |
            | For more information, try '--help'.
            exit 2
        "#]],
    )
}

#[test]
fn deleted_keys_are_compared_with_what_they_were() -> Result<()> {
    let session = Session::start_group()?;
    session.data(&["set", "k", "one"])?;
    session.data(&["del", "k"])?;
    session.check(
        "diff k
         diff k --to 2
         diff k --to 1
         set k two
         diff k
         diff k --to 3
         compact 4
         diff k
         diff k --rev 2
         diff k --rev 2 -o json
         set k three
         compact 5
         diff k
         rollback k --to 4 --yes
         set k four
         compact 6
         set other x
         compact 7
         history k
         history k -o json",
        expect![[r#"
            $ cfgctl diff k
            --- k at revision 2
            +++ k at revision 3 (does not exist)
            @@ -1 +0,0 @@
            -one
            $ cfgctl diff k --to 2
            --- k at revision 1 (does not exist)
            +++ k at revision 2
            @@ -0,0 +1 @@
            +one
            $ cfgctl diff k --to 1
            | error: key `k` does not exist at revision 1
            |
            | hint: `cfgctl history k` prints its versions
            exit 1
            $ cfgctl set k two
            KEY  REVISION
            k    4
            $ cfgctl diff k
            --- k at revision 3 (does not exist)
            +++ k at revision 4
            @@ -0,0 +1 @@
            +two
            $ cfgctl diff k --to 3
            --- k at revision 2
            +++ k at revision 3 (does not exist)
            @@ -1 +0,0 @@
            -one
            $ cfgctl compact 4
            COMPACTED
            4
            $ cfgctl diff k
            --- k at revision 3 (does not exist)
            +++ k at revision 4
            @@ -0,0 +1 @@
            +two
            $ cfgctl diff k --rev 2
            | error: revision 2 is compacted
            |
            | hint: the first one after it that can be read is 4: give that or a later one
            exit 1
            $ cfgctl diff k --rev 2 -o json
            | error: revision 2 is compacted
            |
            | hint: the first one after it that can be read is 4: give that or a later one
            exit 1
            $ cfgctl set k three
            KEY  REVISION
            k    5
            $ cfgctl compact 5
            COMPACTED
            5
            $ cfgctl diff k
            | error: revision 4 is compacted
            |
            | hint: the first one after it that can be read is 5: give that or a later one
            exit 1
            $ cfgctl rollback k --to 4 --yes
            | error: revision 4 is compacted
            |
            | hint: the first one after it that can be read is 5: give that or a later one
            exit 1
            $ cfgctl set k four
            KEY  REVISION
            k    6
            $ cfgctl compact 6
            COMPACTED
            6
            $ cfgctl set other x
            KEY    REVISION
            other  7
            $ cfgctl compact 7
            COMPACTED
            7
            $ cfgctl history k
            REVISION  TIME  AUTHOR  REASON  CHANGE  VALUE
            6         -     -       -       put     four
            $ cfgctl history k -o json
            {
              "compact_revision": 7,
              "entries": [
                {
                  "author": "",
                  "event": "put",
                  "kv": {
                    "create_revision": 4,
                    "key": "k",
                    "mod_revision": 6,
                    "value": "four",
                    "version": 3
                  },
                  "reason": "",
                  "revision": 6,
                  "time": null
                }
              ],
              "key": "k"
            }
        "#]],
    )
}

#[test]
fn revisions_that_a_restore_left_out_are_told() -> Result<()> {
    let from = Session::start_group()?;
    from.data(&["set", "k", "one"])?;
    from.data(&["set", "k", "two"])?;
    let file = from.dir().join("file");
    let file = file.to_str().context("a plain name")?;
    from.data(&["snapshot", "save", file])?;
    let session = Session::start_group()?;
    let args = ["snapshot", "restore", file, "--yes", "--advance", "1000"];
    session.data(&args)?;
    session.data(&["set", "k", "three"])?;
    session.check(
        "diff k
         diff k --rev 500
         rollback k --to 500 --dry-run
         diff --prefix k --rev 500
         rollback k --to 2 --dry-run",
        expect![[r#"
            $ cfgctl diff k
            --- k at revision 3
            +++ k at revision 1004
            @@ -1 +1 @@
            -two
            +three
            $ cfgctl diff k --rev 500
            | error: revision 500 is compacted
            |
            | hint: the first one after it that can be read is 1003: give that or a later one
            exit 1
            $ cfgctl rollback k --to 500 --dry-run
            | error: revision 500 is compacted
            |
            | hint: the first one after it that can be read is 1003: give that or a later one
            exit 1
            $ cfgctl diff --prefix k --rev 500
            | error: revision 500 is compacted
            |
            | hint: the first one after it that can be read is 1003: give that or a later one
            exit 1
            $ cfgctl rollback k --to 2 --dry-run
            --- k at revision 1004
            +++ k as at revision 2
            @@ -1 +1 @@
            -three
            +one
            UNDOES  TIME                      AUTHOR  REASON  CHANGE
            3       2000-01-01T00:00:00.000Z  -       -       put
            1004    2000-01-01T00:00:00.000Z  -       -       put
            | nothing was written
        "#]],
    )
}

#[test]
fn json_and_other_bytes_are_compared_in_their_own_ways() -> Result<()> {
    let session = Session::start_group()?;
    session.run_with(&["set", "j"], br#"{"role": "db", "hosts": ["a", "b"]}"#)?;
    session.run_with(&["set", "j"], br#"{"role": "db", "hosts": ["a", "c"]}"#)?;
    session.run_with(&["set", "b", "-"], &[0xff, 0x00, b'a'])?;
    session.run_with(&["set", "b", "-"], &[0xff, 0x01, b'a', b'b'])?;
    session.check(
        "diff j
         diff b
         diff b -o json
         rollback b --to 4 --yes
         get b",
        expect![[r#"
            $ cfgctl diff j
            --- j at revision 2
            +++ j at revision 5
            @@ -2,6 +2,6 @@
               "role": "db",
               "hosts": [
                 "a",
            -    "b"
            +    "c"
               ]
             }
            $ cfgctl diff b
            --- b at revision 4
            +++ b at revision 5
            -3 bytes: ff 00 61
            +4 bytes: ff 01 61 62
            $ cfgctl diff b -o json
            {
              "after": {
                "create_revision": 4,
                "encoding": "base64",
                "key": "b",
                "mod_revision": 5,
                "value": "/wFhYg==",
                "version": 2
              },
              "before": {
                "create_revision": 4,
                "encoding": "base64",
                "key": "b",
                "mod_revision": 4,
                "value": "/wBh",
                "version": 1
              },
              "changed": true,
              "from_revision": 4,
              "key": "b",
              "to_revision": 5
            }
            $ cfgctl rollback b --to 4 --yes
            CHANGE  REVISION  KEY
            put     6         b
            | --- b at revision 5
            | +++ b as at revision 4
            | -4 bytes: ff 01 61 62
            | +3 bytes: ff 00 61
            | UNDOES  TIME                      AUTHOR  REASON  CHANGE
            | 5       2000-01-01T00:00:00.000Z  -       -       put
            | this writes 1 key: back to revision 4
            $ cfgctl get b
            KEY  REVISION  VERSION  LEASE  VALUE
            b    6         3        -      \xff\x00a
        "#]],
    )
}

#[test]
fn what_changed_below_a_prefix_is_listed() -> Result<()> {
    let session = Session::start_group()?;
    for (key, value) in [("app/a", "1"), ("app/b", "2"), ("app/c", "3"), ("b", "4")] {
        session.data(&["set", key, value])?;
    }
    session.data(&["set", "app/b", "two"])?;
    session.data(&["del", "app/a"])?;
    session.data(&["set", "app/d", "5"])?;
    session.data(&["set", "b", "6"])?;
    session.check(
        "diff --prefix app/ --rev 5
         diff --prefix app/ --rev 5 --to 6 -o json
         diff --prefix '' --rev 8 --to 3
         diff --prefix app/ --rev 7 --to 7 -o json
         diff --prefix nothing/ --rev 5
         diff --prefix app/ --rev 50
         diff --prefix app/
         compact 6
         diff --prefix app/ --rev 5",
        expect![[r#"
            $ cfgctl diff --prefix app/ --rev 5
            CHANGE   BEFORE  AFTER  KEY
            removed  2       -      app/a
            changed  3       6      app/b
            added    -       8      app/d
            | 1 key added, 1 removed, 1 changed from revision 5 to 9
            $ cfgctl diff --prefix app/ --rev 5 --to 6 -o json
            {
              "changes": [
                {
                  "after": 6,
                  "before": 3,
                  "change": "changed",
                  "key": "app/b"
                }
              ],
              "from_revision": 5,
              "to_revision": 6
            }
            | 0 keys added, 0 removed, 1 changed from revision 5 to 6
            $ cfgctl diff --prefix '' --rev 8 --to 3
            CHANGE   BEFORE  AFTER  KEY
            added    -       2      app/a
            changed  6       3      app/b
            removed  4       -      app/c
            removed  8       -      app/d
            removed  5       -      b
            | 1 key added, 3 removed, 1 changed from revision 8 to 3
            $ cfgctl diff --prefix app/ --rev 7 --to 7 -o json
            {
              "changes": [],
              "from_revision": 7,
              "to_revision": 7
            }
            | 0 keys added, 0 removed, 0 changed from revision 7 to 7
            $ cfgctl diff --prefix nothing/ --rev 5
            | error: no key begins with `nothing/`, neither at revision 5 nor at revision 9
            exit 1
            $ cfgctl diff --prefix app/ --rev 50
            | error: revision 50 is in the future
            |
            | hint: `cfgctl status` prints the current revision
            exit 1
            $ cfgctl diff --prefix app/
            | error: the following required arguments were not provided:
            |   --rev <N>
            |
            | Usage: cfgctl diff --rev <N> --prefix --endpoints <A,B,C> <KEY>
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl compact 6
            COMPACTED
            6
            $ cfgctl diff --prefix app/ --rev 5
            | error: revision 5 is compacted
            |
            | hint: the first one after it that can be read is 6: give that or a later one
            exit 1
        "#]],
    )
}

#[test]
fn thousands_of_keys_are_compared_in_pages() -> Result<()> {
    let session = Session::start_group()?;
    let from = session.dir().join("many");
    std::fs::create_dir(&from)?;
    for number in 0..2500 {
        std::fs::write(from.join(format!("{number:04}")), "x")?;
    }
    session.data(&["import", "many", "--prefix", "m"])?;
    session.data(&["set", "m/1700", "y"])?;
    session.data(&["del", "m/2400"])?;
    let diff = |rev: &str| -> Result<Value> {
        let args = ["diff", "--prefix", "m/", "--rev", rev, "-o", "json"];
        Ok(serde_json::from_str(&session.data(&args)?)?)
    };
    let all = diff("1")?;
    let changes = all["changes"].as_array().context("a list")?;
    let names: Vec<&str> = changes
        .iter()
        .filter_map(|one| one["key"].as_str())
        .collect();
    let wanted: Vec<String> = (0..2500)
        .filter(|number| *number != 2400)
        .map(|number| format!("m/{number:04}"))
        .collect();
    ensure!(names == wanted, "{} keys", names.len());
    ensure!(changes.iter().all(|one| one["change"] == "added"));
    // 20 batches of 128 were imported.
    let two = diff("21")?;
    let changes = two["changes"].as_array().context("a list")?;
    let two: Vec<_> = changes
        .iter()
        .map(|one| (&one["key"], &one["change"]))
        .collect();
    ensure!(
        two == [
            (&Value::from("m/1700"), &Value::from("changed")),
            (&Value::from("m/2400"), &Value::from("removed"))
        ],
        "{two:?}"
    );
    let table = session.data(&["diff", "--prefix", "m/", "--rev", "1"])?;
    ensure!(table.lines().count() == 2500, "a heading and 2499 keys");
    Ok(())
}
