//! What counts, and what is refused in which words.

use expect_test::{Expect, expect};

use super::*;

fn texts(pairs: &str) -> Texts {
    pairs
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
}

fn check(flags: &str, environment: &str, file: &str, expected: Expect) {
    let file = file_texts(file).expect("the test's file is TOML");
    let shown = match resolve(&texts(flags), &texts(environment), &file) {
        Ok(settings) => format!("{settings:#?}\n"),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
            lines.join(
                "
",
            ) + "
"
        }
    };
    expected.assert_eq(&shown);
}

#[test]
fn no_arguments_is_one_node_on_loopback() {
    check(
        "",
        "",
        "",
        expect![[r#"
            Settings {
                name: "default",
                colo: "default",
                data_dir: "./cfgsvc.data",
                listen_client: "127.0.0.1:2379",
                listen_peer: "127.0.0.1:2380",
                advertise_client: [
                    "127.0.0.1:2379",
                ],
                advertise_peer: "127.0.0.1:2380",
                start: Initial(
                    {
                        "default": "127.0.0.1:2380",
                    },
                ),
                danger_adopt_copied_data: false,
                heartbeat: 100ms,
                election: 500ms,
                snapshot_entries: 100000,
                compact_after: None,
                compact_keep: None,
                quota_bytes: None,
                max_request_bytes: 1572864,
                min_free_bytes: 268435456,
                log: "info",
                log_format: Text,
            }
        "#]],
    );
}

#[test]
fn flag_wins_over_environment_over_file() {
    let pick = |flags: &str, environment: &str| {
        let file = file_texts("name = \"file\"\ncompact-keep = 7").expect("TOML");
        let settings = resolve(&texts(flags), &texts(environment), &file).expect("good");
        (settings.name, settings.compact_keep)
    };
    assert_eq!(
        pick("name=flag", "CFGSVCD_NAME=env"),
        ("flag".to_owned(), Some(7))
    );
    assert_eq!(
        pick("", "CFGSVCD_NAME=env PATH=/bin"),
        ("env".to_owned(), Some(7))
    );
    assert_eq!(pick("", ""), ("file".to_owned(), Some(7)));
}

#[test]
fn three_members_take_their_peer_address_from_the_list() {
    let flags = "name=n2 listen-client=10.0.0.2:2379 initial-cluster=n1=10.0.0.1:1,n2=10.0.0.2:1";
    let settings = resolve(&texts(flags), &Texts::new(), &Texts::new()).expect("good");
    assert_eq!(settings.listen_peer, "10.0.0.2:1");
    assert_eq!(settings.advertise_peer, "10.0.0.2:1");
    assert_eq!(settings.advertise_client, ["10.0.0.2:2379"]);
}

#[test]
fn all_bad_settings_are_reported_at_once() {
    check(
        "listen-client=nowhere heartbeat-ms=0 log-format=xml compact-after=soon",
        "CFGSVCD_QUOTA_BYTES=many CFGSVCD_NAEM=n1",
        "listen-pear = \"127.0.0.1:2380\"\nlearner = \"maybe\"",
        expect![[r#"
            the settings file: found `listen-pear`, allowed: name, colo, data-dir, listen-client, listen-peer, advertise-client, advertise-peer, initial-cluster, join, learner, danger-adopt-copied-data, heartbeat-ms, election-ms, snapshot-entries, compact-after, compact-keep, quota-bytes, max-request-bytes, min-free-bytes, log, log-format
            the environment: found `CFGSVCD_NAEM`, allowed: CFGSVCD_NAME, CFGSVCD_COLO, CFGSVCD_DATA_DIR, CFGSVCD_LISTEN_CLIENT, CFGSVCD_LISTEN_PEER, CFGSVCD_ADVERTISE_CLIENT, CFGSVCD_ADVERTISE_PEER, CFGSVCD_INITIAL_CLUSTER, CFGSVCD_JOIN, CFGSVCD_LEARNER, CFGSVCD_DANGER_ADOPT_COPIED_DATA, CFGSVCD_HEARTBEAT_MS, CFGSVCD_ELECTION_MS, CFGSVCD_SNAPSHOT_ENTRIES, CFGSVCD_COMPACT_AFTER, CFGSVCD_COMPACT_KEEP, CFGSVCD_QUOTA_BYTES, CFGSVCD_MAX_REQUEST_BYTES, CFGSVCD_MIN_FREE_BYTES, CFGSVCD_LOG, CFGSVCD_LOG_FORMAT
            `learner` in the settings file: found `maybe`, allowed: true or false
            --heartbeat-ms: found `0`, allowed: a whole number from 1 to 10000
            --compact-after: found `soon`, allowed: 0, or 1s to 10 years as a number with ms, s, m, h or d, such as 24h
            CFGSVCD_QUOTA_BYTES: found `many`, allowed: bytes from 0 to 1125899906842624, plain or with KiB, MiB, GiB or TiB, such as 512MiB
            --log-format: found `xml`, allowed: text or json
            --listen-client: found `nowhere`, allowed: HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:2379 or [::1]:2379
        "#]],
    );
}

#[test]
fn log_filter_that_the_library_would_panic_on_is_refused() {
    check(
        "log=[\u{fffd}\u{fffd}]",
        "",
        "",
        expect![[r#"
        --log: found `[��]`, allowed: off, error, warn, info, debug, trace, or TARGET=LEVEL pairs
    "#]],
    );
}

#[test]
fn one_bad_address_hides_nothing_else() {
    check(
        "name=n/1 listen-client=nowhere listen-peer=h:0 initial-cluster=n1 learner=true",
        "",
        "",
        expect![[r#"
            --name: found `n/1`, allowed: 1 to 64 of the characters a-z A-Z 0-9 - _ .
            --initial-cluster: found `n1`, allowed: NAME=HOST:PORT pairs separated by commas, each name and each address once, such as n1=10.0.0.1:2380,n2=10.0.0.2:2380
            --learner: found `true`, allowed: only together with --join
            --listen-client: found `nowhere`, allowed: HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:2379 or [::1]:2379
            --listen-peer: found `h:0`, allowed: HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:2379 or [::1]:2379
        "#]],
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    check(
        "name=n9 initial-cluster=n1=127.0.0.1:1 join=127.0.0.1:5 heartbeat-ms=500",
        "",
        "",
        expect![[r#"
            --election-ms: found `500`, allowed: at least 5 heartbeats of 500 ms
            --join: found `127.0.0.1:5`, allowed: not together with --initial-cluster
        "#]],
    );
    check(
        "name=n9 initial-cluster=n1=127.0.0.1:1 learner=true",
        "",
        "",
        expect![[r#"
        --learner: found `true`, allowed: only together with --join
        --initial-cluster: found `n1=127.0.0.1:1`, allowed: a list that has this member, `n9=...`
    "#]],
    );
    check(
        "listen-client=0.0.0.0:2379",
        "",
        "",
        expect![[r#"
            --advertise-client: not set, allowed: HOST:PORT that others can reach; --listen-client 0.0.0.0:2379 names no host
        "#]],
    );
    check(
        "listen-client=127.0.0.1:2380",
        "",
        "",
        expect![[r#"
            --listen-peer: not set, allowed: another address than 127.0.0.1:2380 of --listen-client
        "#]],
    );
    check(
        "name=n1 initial-cluster=n1=127.0.0.1:1,n2=127.0.0.1:1 advertise-peer=127.0.0.1:3",
        "",
        "",
        expect![[r#"
            --initial-cluster: found `n1=127.0.0.1:1,n2=127.0.0.1:1`, allowed: NAME=HOST:PORT pairs separated by commas, each name and each address once, such as n1=10.0.0.1:2380,n2=10.0.0.2:2380
        "#]],
    );
}

#[test]
fn lists_in_the_file_are_joined() {
    let file = file_texts("advertise-client = [\"a:1\", \"b:2\"]\nlearner = true").expect("TOML");
    assert_eq!(file["advertise-client"], "a:1,b:2");
    assert_eq!(file["learner"], "true");
}

#[test]
fn file_with_values_that_mean_nothing_is_refused_with_all_of_them() {
    let problems = file_texts("colo = 1.5\n[group]\nname = \"n1\"").expect_err("no meaning");
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    expect![[r#"
        the settings file: found `colo = 1.5`, allowed: TOML with one `name = value` for each setting; a value is a string, a whole number, true, false, or a list of these
        the settings file: found `group = { name = "n1" }`, allowed: TOML with one `name = value` for each setting; a value is a string, a whole number, true, false, or a list of these"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn command_line_is_well_formed() {
    command().debug_assert();
    let matches = command()
        .try_get_matches_from(["cfgsvcd", "--name", "n1", "--learner", "--join", "h:1"])
        .expect("good flags");
    let texts = flag_texts(&matches);
    assert_eq!(texts["learner"], "true");
    assert_eq!(texts["name"], "n1");
    assert_eq!(texts.len(), 3);
}
