//! Colos, hosts and roles, as operators meet them. More of hosts that attend is in the server's
//! tests.

use crate::Session;
use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{binary_path, eventually};
use expect_test::expect;
use serde_json::Value;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn colos_are_added_drained_and_kept_while_something_needs_them() -> Result<()> {
    let session = Session::start_group()?;
    session.check(
        "colo add akl --address 192.0.2.1
         colo add akl --address 192.0.2.1
         colo add wlg --dry-run
         colo add wlg
         colo list
         colo drain akl --dry-run -o json
         colo drain akl
         colo list -o json
         colo drain akl --undo
         colo drain nowhere
         colo add -- -x
         set /cfgsvc/hosts/h1 {\"colo\":\"wlg\"}
         host list
         del /cfgsvc/colos/wlg
         del /cfgsvc/colos/wlg --dry-run
         set /cfgsvc/hosts/h1 {\"colo\":\"nowhere\"} --dry-run
         colo delete wlg
         host delete h1 --dry-run
         host delete h1
         host delete h1
         colo delete wlg",
        expect![[r#"
            $ cfgctl colo add akl --address 192.0.2.1
            KEY                REVISION
            /cfgsvc/colos/akl  2
            $ cfgctl colo add akl --address 192.0.2.1
            | it is so already, nothing was written
            $ cfgctl colo add wlg --dry-run
            --- /cfgsvc/colos/wlg at revision 2 (does not exist)
            +++ /cfgsvc/colos/wlg as it would be
            @@ -0,0 +1 @@
            +{}
            | nothing was written
            $ cfgctl colo add wlg
            KEY                REVISION
            /cfgsvc/colos/wlg  3
            $ cfgctl colo list
            COLO  HOSTS  STATE  ADDRESSES
            akl   0      open   192.0.2.1
            wlg   0      open
            $ cfgctl colo drain akl --dry-run -o json
            {
              "at_revision": 3,
              "events": [
                {
                  "event": "put",
                  "kv": {
                    "create_revision": 2,
                    "key": "/cfgsvc/colos/akl",
                    "mod_revision": 4,
                    "value": "{\"addresses\":[\"192.0.2.1\"],\"drained\":true}",
                    "version": 2
                  },
                  "revision": 4
                }
              ],
              "verdicts": []
            }
            | nothing was written
            $ cfgctl colo drain akl
            KEY                REVISION
            /cfgsvc/colos/akl  4
            $ cfgctl colo list -o json
            {
              "colos": [
                {
                  "addresses": [
                    "192.0.2.1"
                  ],
                  "drained": true,
                  "hosts": 0,
                  "name": "akl"
                },
                {
                  "addresses": [],
                  "drained": false,
                  "hosts": 0,
                  "name": "wlg"
                }
              ]
            }
            $ cfgctl colo drain akl --undo
            KEY                REVISION
            /cfgsvc/colos/akl  5
            $ cfgctl colo drain nowhere
            | error: there is no colo `nowhere`
            |
            | hint: `cfgctl colo list` prints those that there are
            exit 1
            $ cfgctl colo add -- -x
            | error: invalid value '-x' for '<NAME>': name '-x' must be 1 to 253 letters, digits, '.', '-' or '_', and begin with a letter or a digit
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl set /cfgsvc/hosts/h1 {"colo":"wlg"}
            KEY               REVISION
            /cfgsvc/hosts/h1  6
            $ cfgctl host list
            HOST  COLO  ATTENDS (* SERVES)  ADDRESSES
            h1    wlg   -
            $ cfgctl del /cfgsvc/colos/wlg
            | error: the group refused: object is in use: colo 'wlg' has host 'h1': cfgctl host delete h1
            exit 1
            $ cfgctl del /cfgsvc/colos/wlg --dry-run
            --- /cfgsvc/colos/wlg at revision 6
            +++ /cfgsvc/colos/wlg as it would be (does not exist)
            @@ -1 +0,0 @@
            -{}
            | error: the group refused: object is in use: colo 'wlg' has host 'h1': cfgctl host delete h1
            exit 1
            $ cfgctl set /cfgsvc/hosts/h1 {"colo":"nowhere"} --dry-run
            --- /cfgsvc/hosts/h1 at revision 6
            +++ /cfgsvc/hosts/h1 as it would be
            @@ -1,3 +1,3 @@
             {
            -  "colo": "wlg"
            +  "colo": "nowhere"
             }
            | error: the group refused: invalid object: key '/cfgsvc/hosts/h1': colo 'nowhere' does not exist; cfgctl colo add nowhere
            exit 1
            $ cfgctl colo delete wlg
            | error: the group refused: object is in use: colo 'wlg' has host 'h1': cfgctl host delete h1
            exit 1
            $ cfgctl host delete h1 --dry-run
            --- /cfgsvc/hosts/h1 at revision 6
            +++ /cfgsvc/hosts/h1 as it would be (does not exist)
            @@ -1,3 +0,0 @@
            -{
            -  "colo": "wlg"
            -}
            | nothing was written
            $ cfgctl host delete h1
            | deleted host `h1`
            $ cfgctl host delete h1
            | error: there is no host `h1`
            |
            | hint: `cfgctl host list` prints those that there are
            exit 1
            $ cfgctl colo delete wlg
            | deleted colo `wlg`
        "#]],
    )
}

#[test]
fn roles_are_created_moved_and_paused() -> Result<()> {
    let session = Session::start_group()?;
    session.data(&["colo", "add", "akl"])?;
    session.data(&["colo", "add", "wlg"])?;
    session.check(
        "role create db/orders --candidates h1,h2 --dry-run
         role create db/orders --candidates h1,h2 --data number
         role create db/orders --term 10s --stop 2s --dry-run
         role create web --kind colo --failover manual
         role list
         role release web
         role grant web akl
         role grant web wlg
         colo activate wlg --role web --dry-run
         role switch web wlg --epoch 3
         role switch web wlg
         role show web
         role release web
         role switch web akl
         role pause db/orders
         role list -o json
         role resume db/orders
         role delete web --dry-run
         role delete web
         role delete web",
        expect![[r#"
            $ cfgctl role create db/orders --candidates h1,h2 --dry-run
            --- /cfgsvc/roles/db/orders at revision 3 (does not exist)
            +++ /cfgsvc/roles/db/orders as it would be
            @@ -0,0 +1,12 @@
            +{
            +  "kind": "host",
            +  "term_ms": 5000,
            +  "rate_ppm": 1000,
            +  "stop_ms": 1000,
            +  "failover": "auto",
            +  "candidates": [
            +    "h1",
            +    "h2"
            +  ],
            +  "data": "none"
            +}
            --- /cfgsvc/grants/db/orders at revision 3 (does not exist)
            +++ /cfgsvc/grants/db/orders as it would be
            @@ -0,0 +1,4 @@
            +{
            +  "epoch": 4,
            +  "serving": 0
            +}
            | nothing was written
            $ cfgctl role create db/orders --candidates h1,h2 --data number
            KEY                      REVISION
            /cfgsvc/roles/db/orders  4
            $ cfgctl role create db/orders --term 10s --stop 2s --dry-run
            --- /cfgsvc/roles/db/orders at revision 4
            +++ /cfgsvc/roles/db/orders as it would be
            @@ -1,8 +1,8 @@
             {
               "kind": "host",
            -  "term_ms": 5000,
            +  "term_ms": 10000,
               "rate_ppm": 1000,
            -  "stop_ms": 1000,
            +  "stop_ms": 2000,
               "failover": "auto",
               "candidates": [
                 "h1",
            | nothing was written
            $ cfgctl role create web --kind colo --failover manual
            KEY                REVISION
            /cfgsvc/roles/web  5
            $ cfgctl role list
            ROLE       KIND  HOLDER  EPOCH  SERVES  THERE  STATE
            db/orders  host  -       4      0       0      auto
            web        colo  -       5      0       0      manual
            $ cfgctl role release web
            ROLE  HOLDER  EPOCH
            web   -       5
            $ cfgctl role grant web akl
            ROLE  HOLDER  EPOCH
            web   akl     6
            $ cfgctl role grant web wlg
            | error: role `web` is held by `akl`
            |
            | hint: `cfgctl role switch web wlg` gives it to another
            exit 1
            $ cfgctl colo activate wlg --role web --dry-run
            --- /cfgsvc/grants/web at revision 6
            +++ /cfgsvc/grants/web as it would be
            @@ -1,5 +1,5 @@
             {
            -  "epoch": 6,
            -  "holder": "akl",
            +  "epoch": 7,
            +  "holder": "wlg",
               "serving": 0
             }
            | nothing was written
            $ cfgctl role switch web wlg --epoch 3
            | error: the group refused: epoch has changed: role 'web' is at epoch 6, asked for at epoch 3
            exit 1
            $ cfgctl role switch web wlg
            ROLE  HOLDER  EPOCH
            web   wlg     7
            $ cfgctl role show web
            ROLE  HOLDER  EPOCH  TERM  STATE
            web   wlg     7      5s    manual
            $ cfgctl role release web
            ROLE  HOLDER  EPOCH
            web   -       7
            $ cfgctl role switch web akl
            | error: nobody holds role `web`
            |
            | hint: `cfgctl role grant web akl` gives it
            exit 1
            $ cfgctl role pause db/orders
            KEY                      REVISION
            /cfgsvc/roles/db/orders  9
            $ cfgctl role list -o json
            {
              "roles": [
                {
                  "attending": [],
                  "grant": {
                    "epoch": 4,
                    "serving": 0
                  },
                  "name": "db/orders",
                  "spec": {
                    "candidates": [
                      "h1",
                      "h2"
                    ],
                    "data": "number",
                    "failover": "auto",
                    "kind": "host",
                    "paused": true,
                    "rate_ppm": 1000,
                    "stop_ms": 1000,
                    "term_ms": 5000
                  }
                },
                {
                  "attending": [],
                  "grant": {
                    "epoch": 7,
                    "serving": 0
                  },
                  "name": "web",
                  "spec": {
                    "data": "none",
                    "failover": "manual",
                    "kind": "colo",
                    "rate_ppm": 1000,
                    "stop_ms": 1000,
                    "term_ms": 5000
                  }
                }
              ]
            }
            $ cfgctl role resume db/orders
            KEY                      REVISION
            /cfgsvc/roles/db/orders  10
            $ cfgctl role delete web --dry-run
            --- /cfgsvc/roles/web at revision 10
            +++ /cfgsvc/roles/web as it would be (does not exist)
            @@ -1,8 +0,0 @@
            -{
            -  "kind": "colo",
            -  "term_ms": 5000,
            -  "rate_ppm": 1000,
            -  "stop_ms": 1000,
            -  "failover": "manual",
            -  "data": "none"
            -}
            --- /cfgsvc/grants/web at revision 10
            +++ /cfgsvc/grants/web as it would be (does not exist)
            @@ -1,4 +0,0 @@
            -{
            -  "epoch": 7,
            -  "serving": 0
            -}
            | nothing was written
            $ cfgctl role delete web
            | deleted role `web`
            $ cfgctl role delete web
            | error: there is no role `web`
            |
            | hint: `cfgctl role list` prints those that there are
            exit 1
        "#]],
    )
}

#[test]
fn what_makes_no_sense_is_refused_with_the_limit_and_what_was_found() -> Result<()> {
    let session = Session::start_group()?;
    session.check(
        "role create bad --stop 9s
         role create bad --term 100ms
         role create bad --kind colo --candidates nowhere
         role create bad --candidates h1,h1
         role create bad//name
         role create locks/mine
         role show bad
         role grant bad h1
         set /cfgsvc/roles/bad {\"kind\":\"host\",\"colour\":1}
         set /cfgsvc/grants/bad {}
         set /cfgsvc/attending/bad/h1 {}
         set /cfgsvc/tables/a b
         set /cfgsvc/hosts/h1 {\"colo\":\"nowhere\"}
         role create good --failover auto
         role release good
         role grant good h1",
        expect![[r#"
            $ cfgctl role create bad --stop 9s
            | error: the group refused: invalid object: key '/cfgsvc/roles/bad': stop_ms is 9000, allowed: 100 to 2500, half of term_ms 5000
            exit 1
            $ cfgctl role create bad --term 100ms
            | error: the group refused: invalid object: key '/cfgsvc/roles/bad': term_ms is 100, allowed: 500 to 600000
            exit 1
            $ cfgctl role create bad --kind colo --candidates nowhere
            | error: the group refused: invalid object: key '/cfgsvc/roles/bad': colo 'nowhere' does not exist; cfgctl colo add nowhere
            exit 1
            $ cfgctl role create bad --candidates h1,h1
            | error: the group refused: invalid object: key '/cfgsvc/roles/bad': candidate 'h1' is listed twice
            exit 1
            $ cfgctl role create bad//name
            | error: invalid value 'bad//name' for '<ROLE>': role 'bad//name' must be names separated by '/', 253 bytes at most; a name is letters, digits, '.', '-' or '_', and begins with a letter or a digit
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl role create locks/mine
            | error: the group refused: key is reserved: key '/cfgsvc/roles/locks/mine': a lock is made by its use
            exit 1
            $ cfgctl role show bad
            | error: the group refused: role not found: role 'bad'; see cfgctl role list
            exit 1
            $ cfgctl role grant bad h1
            | error: the group refused: role not found: role 'bad'; see cfgctl role list
            exit 1
            $ cfgctl set /cfgsvc/roles/bad {"kind":"host","colour":1}
            | error: the group refused: invalid object: key '/cfgsvc/roles/bad': unknown field `colour`, expected one of `kind`, `term_ms`, `rate_ppm`, `stop_ms`, `lock_delay_ms`, `failover`, `paused`, `candidates`, `data`, `sync`, `max_lag`, `follows`, `check`, `same_colo` at line 1 column 23
            exit 1
            $ cfgctl set /cfgsvc/grants/bad {}
            | error: the group refused: key is reserved: key '/cfgsvc/grants/bad' is written by the group alone
            exit 1
            $ cfgctl set /cfgsvc/attending/bad/h1 {}
            | error: the group refused: key is reserved: key '/cfgsvc/attending/bad/h1' is written by the group alone
            exit 1
            $ cfgctl set /cfgsvc/tables/a b
            | error: the group refused: key is reserved: key '/cfgsvc/tables/a' is in no table: keys below /cfgsvc/ are colos, hosts, roles, zones
            exit 1
            $ cfgctl set /cfgsvc/hosts/h1 {"colo":"nowhere"}
            | error: the group refused: invalid object: key '/cfgsvc/hosts/h1': colo 'nowhere' does not exist; cfgctl colo add nowhere
            exit 1
            $ cfgctl role create good --failover auto
            KEY                 REVISION
            /cfgsvc/roles/good  2
            $ cfgctl role release good
            | error: the group refused: nobody can take the role so: role 'good' is given by the group itself and would be again; pause it first (cfgctl role pause good), or switch it to another
            exit 1
            $ cfgctl role grant good h1
            | error: the group refused: nobody can take the role so: 'h1' does not attend role 'good': is its agent running?
            exit 1
        "#]],
    )
}

/// An agent of a host that serves a role, until it is dropped.
struct Agent(Child);

impl Agent {
    fn start(session: &Session, (host, colo): (&str, &str), role: &str) -> Result<Self> {
        let log = File::create(session.dir().join(format!("{host}.log")))?;
        let agent = Command::new(binary_path("cfgagent")?)
            .args(["run", "--host", host, "--colo", colo, "--role", role])
            .args(["--endpoints", session.endpoint()])
            .args(["--http", "off", "--watchdog", "off", "--state-dir"])
            .arg(session.dir().join(host))
            .args(["--", "sleep", "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start cfgagent")?;
        Ok(Self(agent))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Fails only for one that has ended; its guard ends what it runs.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn colo_is_activated_when_the_roles_that_follow_it_are_served_there() -> Result<()> {
    let session = Session::start_group()?;
    for arguments in [
        "colo add akl",
        "colo add wlg",
        "role create web --kind colo",
        "colo activate akl --role web",
        "role create db/orders --follows web --term 2s --stop 500ms",
        "role create db/spare --follows web --term 2s --stop 500ms",
        "role create db/empty --follows web",
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        session.data(&arguments)?;
    }
    let _agents = [
        Agent::start(&session, ("a1", "akl"), "db/orders")?,
        Agent::start(&session, ("a2", "akl"), "db/spare")?,
        Agent::start(&session, ("w1", "wlg"), "db/orders")?,
        Agent::start(&session, ("w2", "wlg"), "db/spare")?,
    ];
    let shown = |role: &str| -> Option<(Value, usize)> {
        let text = session.data(&["role", "show", role, "-o", "json"]).ok()?;
        let shown: Value = serde_json::from_str(&text).ok()?;
        let there = shown["attending"].as_array()?.len();
        Some((shown, there))
    };
    let serves = |role: &str, host: &str| {
        let (shown, there) = shown(role)?;
        let grant = &shown["grant"];
        (there == 2 && grant["serving"] == 1 && grant["holder"] == host).then_some(())
    };
    eventually(Duration::from_mins(1), "the hosts of akl to serve", || {
        serves("db/orders", "a1").is_some() && serves("db/spare", "a2").is_some()
    })?;
    // Nobody else in the colo that it is bound to could have it.
    let ran = session.run(&["failover", "db/orders", "--dry-run"])?;
    let said = String::from_utf8(ran.stderr)?;
    let why = "`w1` is not in `akl`, which holds `web`, and `db/orders` follows that";
    ensure!(!ran.status.success() && said.contains(why), "{said}");
    session.data(&["role", "pause", "db/spare"])?;
    let ran = session.run(&["colo", "activate", "wlg", "--role", "web"])?;
    let (said, notes) = (
        String::from_utf8(ran.stdout)?,
        String::from_utf8(ran.stderr)?,
    );
    ensure!(ran.status.success(), "{said}{notes}");
    // At once: it was waited for.
    ensure!(serves("db/orders", "w1").is_some(), "{said}{notes}");
    let rows: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let names: Vec<&[&str]> = rows.iter().map(|row| &row[..2]).collect();
    ensure!(
        names == [["ROLE", "HOLDER"], ["web", "wlg"], ["db/orders", "w1"]],
        "{said}"
    );
    ensure!(
        notes.contains("role `db/spare` stays with `a2`: a person decides about it"),
        "{notes}"
    );
    let json = ["colo", "activate", "akl", "--role", "web", "-o", "json"];
    let said: Value = serde_json::from_str(&session.data(&json)?)?;
    ensure!(said["holder"] == "akl", "{said:#}");
    let came = said["followers"].as_array().context("followers")?;
    let came: Vec<_> = came
        .iter()
        .map(|one| (&one["role"], &one["holder"]))
        .collect();
    ensure!(
        came == [
            (&"db/orders".into(), &"a1".into()),
            (&"db/spare".into(), &"a2".into())
        ],
        "{said:#}"
    );
    Ok(())
}
