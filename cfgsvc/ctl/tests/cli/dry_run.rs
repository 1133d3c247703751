//! `--dry-run` of the commands that write keys.

use crate::Session;
use anyhow::Result;
use expect_test::expect;

#[test]
fn a_dry_run_changes_nothing() -> Result<()> {
    check(&Session::start_group()?)
}

#[test]
fn a_dry_run_at_an_etcd_says_the_same() -> Result<()> {
    check(&Session::start()?)
}

fn check(session: &Session) -> Result<()> {
    session.data(&["set", "a/x", "one"])?;
    session.data(&["set", "a/y", "one"])?;
    session.data(&["set", "b", "one"])?;
    let dir = session.dir();
    std::fs::write(
        dir.join("change"),
        "if\n value a/x = one\nthen\n put b two\n put c new\n del a/ prefix\n get a/y\n\
         else\n get a/x\n",
    )?;
    std::fs::write(
        dir.join("not"),
        r#"{"if": [{"key": "a/x", "mod": 9}], "then": [{"del": {"key": "a/x"}}],
            "else": [{"txn": {"then": [{"put": {"key": "a/x", "value": "z"}}]}}]}"#,
    )?;
    session.check(
        "set a/x two --dry-run
         set a/z two --dry-run -o json
         set a/x one --dry-run
         set a/x two --dry-run --if-revision 2 -o json
         set a/x two --dry-run --if-revision 9
         set a/x two --dry-run --if-absent
         set '' two --dry-run
         del a/x --dry-run
         del a/x --dry-run -o json
         del a/none --dry-run
         del --prefix a/ --dry-run
         del --prefix a/ --dry-run -o json
         del --prefix none/ --dry-run
         txn change --dry-run
         txn change --dry-run -o json
         txn not --dry-run
         txn not --dry-run -o json
         get --prefix ''",
        expect![[r#"
            $ cfgctl set a/x two --dry-run
            --- a/x at revision 4
            +++ a/x as it would be
            @@ -1 +1 @@
            -one
            +two
            | nothing was written
            $ cfgctl set a/z two --dry-run -o json
            {
              "after": {
                "value": "two"
              },
              "at_revision": 4,
              "before": null,
              "key": "a/z"
            }
            | nothing was written
            $ cfgctl set a/x one --dry-run
            --- a/x at revision 4
            +++ a/x as it would be
            the value is the same
            | nothing was written
            $ cfgctl set a/x two --dry-run --if-revision 2 -o json
            {
              "after": {
                "value": "two"
              },
              "at_revision": 4,
              "before": {
                "create_revision": 2,
                "key": "a/x",
                "mod_revision": 2,
                "value": "one",
                "version": 1
              },
              "key": "a/x"
            }
            | nothing was written
            $ cfgctl set a/x two --dry-run --if-revision 9
            | error: key `a/x` changed: expected revision r9, found r2
            |
            | hint: read it with `cfgctl get a/x`, then retry with `--if-revision 2`
            exit 1
            $ cfgctl set a/x two --dry-run --if-absent
            | error: key `a/x` exists already, since its change at revision 2
            |
            | hint: read it with `cfgctl get a/x`, then use `--if-revision 2`
            exit 1
            $ cfgctl set '' two --dry-run
            | error: the key is empty
            exit 1
            $ cfgctl del a/x --dry-run
            --- a/x at revision 4
            +++ a/x as it would be (does not exist)
            @@ -1 +0,0 @@
            -one
            | nothing was written
            $ cfgctl del a/x --dry-run -o json
            {
              "after": null,
              "at_revision": 4,
              "before": {
                "create_revision": 2,
                "key": "a/x",
                "mod_revision": 2,
                "value": "one",
                "version": 1
              },
              "key": "a/x"
            }
            | nothing was written
            $ cfgctl del a/none --dry-run
            | error: key `a/none` does not exist
            exit 1
            $ cfgctl del --prefix a/ --dry-run
            CHANGE  REVISION  KEY
            delete  2         a/x
            delete  3         a/y
            | nothing was written
            $ cfgctl del --prefix a/ --dry-run -o json
            {
              "at_revision": 4,
              "changes": [
                {
                  "change": "delete",
                  "key": "a/x",
                  "mod_revision": 2
                },
                {
                  "change": "delete",
                  "key": "a/y",
                  "mod_revision": 3
                }
              ],
              "count": 2
            }
            | nothing was written
            $ cfgctl del --prefix none/ --dry-run
            | error: no key begins with `none/`
            exit 1
            $ cfgctl txn change --dry-run
            the conditions hold at revision 4
            put
            --- b at revision 4
            +++ b as it would be
            @@ -1 +1 @@
            -one
            +two
            put
            --- c at revision 4 (does not exist)
            +++ c as it would be
            @@ -0,0 +1 @@
            +new
            del 2 keys
            - a/x at revision 2
            - a/y at revision 3
            get 1 key
            | nothing was written
            $ cfgctl txn change --dry-run -o json
            {
              "revision": 4,
              "steps": [
                {
                  "put": {
                    "after": {
                      "value": "two"
                    },
                    "before": {
                      "create_revision": 4,
                      "key": "b",
                      "mod_revision": 4,
                      "value": "one",
                      "version": 1
                    },
                    "key": "b"
                  }
                },
                {
                  "put": {
                    "after": {
                      "value": "new"
                    },
                    "before": null,
                    "key": "c"
                  }
                },
                {
                  "del": {
                    "count": 2,
                    "keys": [
                      {
                        "key": "a/x",
                        "mod_revision": 2
                      },
                      {
                        "key": "a/y",
                        "mod_revision": 3
                      }
                    ]
                  }
                },
                {
                  "get": {
                    "count": 1
                  }
                }
              ],
              "succeeded": true
            }
            | nothing was written
            $ cfgctl txn not --dry-run
            the conditions do not hold at revision 4
            txn: the conditions hold
            put
            --- a/x at revision 4
            +++ a/x as it would be
            @@ -1 +1 @@
            -one
            +z
            end of txn
            | nothing was written
            exit 1
            $ cfgctl txn not --dry-run -o json
            {
              "revision": 4,
              "steps": [
                {
                  "txn": {
                    "steps": [
                      {
                        "put": {
                          "after": {
                            "value": "z"
                          },
                          "before": {
                            "create_revision": 2,
                            "key": "a/x",
                            "mod_revision": 2,
                            "value": "one",
                            "version": 1
                          },
                          "key": "a/x"
                        }
                      }
                    ],
                    "succeeded": true
                  }
                }
              ],
              "succeeded": false
            }
            | nothing was written
            exit 1
            $ cfgctl get --prefix ''
            KEY  REVISION  VERSION  LEASE  VALUE
            a/x  2         1        -      one
            a/y  3         1        -      one
            b    4         1        -      one
        "#]],
    )
}
