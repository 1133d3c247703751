//! Zones of `FerretDataset` that break one condition each (dns/testdata/ferret): where most checkers
//! of zones refuse, so do we; where most accept, so do we, with a warning. Where they are divided,
//! the rule in the RFC decides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

use cfgdns_zone::{FAULTS_MAX, Name, Report, Source, load};
use expect_test::expect;
use flate2::read::GzDecoder;
use serde_json::Value;

/// One zone, and how many of four checkers refuse it.
struct Case {
    condition: String,
    id: String,
    zone: String,
    refusals: Option<usize>,
}

fn unpack(packed: &[u8]) -> String {
    let mut text = String::new();
    let mut decoder = GzDecoder::new(packed);
    decoder.read_to_string(&mut text).expect("gzip of UTF-8");
    text
}

fn cases() -> Vec<Case> {
    let text = unpack(include_bytes!("../../testdata/ferret/invalid.jsonl.gz"));
    let cases = text.lines().map(|line| {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let refusals = case["checkers"].as_object().map(|checkers| {
            let refused = checkers.values().filter(|checker| checker["Code"] != 0);
            refused.count()
        });
        Case {
            condition: case["condition"].as_str().expect("a text").to_owned(),
            id: case["id"].to_string(),
            zone: case["zone"].as_str().expect("a text").to_owned(),
            refusals,
        }
    });
    cases.collect()
}

/// Who owns the SOA record; or, where there is none, the first record.
fn origin(zone: &str) -> Name {
    // One zone has no name at all.
    let mut owner = ".";
    let mut origin = None;
    for line in zone.lines().filter(|line| !line.trim().is_empty()) {
        if !line.starts_with(char::is_whitespace) {
            owner = line.split_whitespace().next().expect("a word");
        }
        if origin.is_none() || line.contains("SOA") {
            origin = Some(owner);
        }
        if line.contains("SOA") {
            break;
        }
    }
    origin.expect("a record").parse().expect("a name")
}

/// The rules that a report names, without the names in them.
fn rules(report: &Report) -> Vec<String> {
    let rules = report.faults().iter().map(|fault| {
        let words = fault.rule.split(' ').map(|word| {
            let name = word.trim_end_matches([',', ':']);
            if name.len() > 1 && name.ends_with('.') {
                word.replace(name, "NAME")
            } else {
                word.to_owned()
            }
        });
        words.collect::<Vec<_>>().join(" ")
    });
    let mut rules: Vec<String> = rules.collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn zones_that_most_checkers_refuse_are_refused_and_the_others_taken_with_a_warning() {
    let mut table: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    let cases = cases();
    assert_eq!(cases.len(), 440);
    for case in &cases {
        let origin = origin(&case.zone);
        // Those that no checker was asked about have neither TTL nor SOA: it is the SOA that matters.
        let ttl = if case.refusals.is_none() {
            "$TTL 1\n"
        } else {
            ""
        };
        let text = format!("{ttl}{}", case.zone);
        let source = Source {
            file: "zone",
            text: text.as_bytes(),
            origin: &origin,
        };
        let (outcome, report) = match load(&source) {
            Ok(loaded) => ("taken", loaded.warnings),
            Err(report) => ("refused", report),
        };
        let place = format!("{} {}:\n{}\n{report}", case.condition, case.id, case.zone);
        match case.refusals {
            Some(0 | 1) => assert_eq!(outcome, "taken", "{place}"),
            Some(3 | 4) | None => assert_eq!(outcome, "refused", "{place}"),
            Some(_) => {}
        }
        if outcome == "refused" {
            let fault = report.faults().first().unwrap_or_else(|| panic!("{place}"));
            assert!(
                !fault.record.is_empty() && !fault.hint.is_empty(),
                "{place}"
            );
            assert!(report.faults().len() <= FAULTS_MAX);
        }
        let refusals = case
            .refusals
            .map_or("no checker".to_owned(), |n| format!("{n} of 4 refuse"));
        for rule in rules(&report) {
            let key = (
                case.condition.clone(),
                format!("{refusals}, {outcome}"),
                rule,
            );
            *table.entry(key).or_default() += 1;
        }
        if report.is_empty() {
            let key = (
                case.condition.clone(),
                format!("{refusals}, {outcome}"),
                "no word".to_owned(),
            );
            *table.entry(key).or_default() += 1;
        }
    }
    let mut text = String::new();
    for ((condition, outcome, rule), count) in table {
        writeln!(text, "{condition}: {outcome}: {count} x {rule}").expect("a string");
    }
    expect![[r#"
        FalseCond_1: 0 of 4 refuse, taken: 6 x no word
        FalseCond_1: 1 of 4 refuse, taken: 1 x no word
        FalseCond_1: 1 of 4 refuse, taken: 1 x the delegation of NAME hides it: it is never served (RFC 2181 6.1)
        FalseCond_1: 1 of 4 refuse, taken: 43 x the record is there twice and was taken once (RFC 2181 5)
        FalseCond_2: 2 of 4 refuse, refused: 5 x NAME is not at or below NAME, the name of the zone (RFC 1035 5.2)
        FalseCond_2: 2 of 4 refuse, taken: 2 x the record is there twice and was taken once (RFC 2181 5)
        FalseCond_2: no checker, refused: 26 x NAME is not at or below NAME, the name of the zone (RFC 1035 5.2)
        FalseCond_2: no checker, refused: 3 x a delegated name has no DNAME (RFC 6672 2.3), and it has NS
        FalseCond_2: no checker, refused: 6 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has NS
        FalseCond_2: no checker, refused: 1 x no name is written here, nor before (RFC 1035 5.1)
        FalseCond_2: no checker, refused: 16 x the zone has no SOA record (RFC 1035 5.2)
        FalseCond_2: no checker, refused: 8 x the zone names no name server of its own (RFC 1034 4.2.1)
        FalseCond_3: 2 of 4 refuse, refused: 47 x NAME is not at or below NAME, the name of the zone (RFC 1035 5.2)
        FalseCond_4: 4 of 4 refuse, refused: 6 x a name has one CNAME at most (RFC 2181 10.1), and there are 2
        FalseCond_4: 4 of 4 refuse, refused: 1 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has AAAA
        FalseCond_4: 4 of 4 refuse, refused: 10 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has DNAME
        FalseCond_4: 4 of 4 refuse, refused: 8 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has NS
        FalseCond_4: 4 of 4 refuse, refused: 24 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has NS, SOA
        FalseCond_4: 4 of 4 refuse, refused: 3 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has NS, SOA, DNAME
        FalseCond_4: 4 of 4 refuse, refused: 1 x a name that is an alias has no other records (RFC 1034 3.6.2), and it has TXT
        FalseCond_5: 3 of 4 refuse, refused: 38 x a name has one DNAME at most (RFC 6672 2.4), and there are 2
        FalseCond_5: 3 of 4 refuse, refused: 2 x a name has one DNAME at most (RFC 6672 2.4), and there are 3
        FalseCond_5: 4 of 4 refuse, refused: 1 x a name has one DNAME at most (RFC 6672 2.4), and there are 2
        FalseCond_6: 2 of 4 refuse, refused: 52 x a delegated name has no DNAME (RFC 6672 2.3), and it has NS
        FalseCond_7: 2 of 4 refuse, refused: 32 x nothing stands below NAME, which has a DNAME (RFC 6672 2.4)
        FalseCond_7: 3 of 4 refuse, refused: 15 x nothing stands below NAME, which has a DNAME (RFC 6672 2.4)
        FalseCond_8: 1 of 4 refuse, taken: 49 x the delegation of NAME hides it: it is never served (RFC 2181 6.1)
        FalseCond_9: 2 of 4 refuse, refused: 3 x NAME is an alias, and NS leads to a name with addresses (RFC 2181 10.3)
        FalseCond_9: 2 of 4 refuse, refused: 38 x NAME is in this zone and has no address (RFC 1912 2.3)
        FalseCond_9: 2 of 4 refuse, refused: 8 x the glue of NAME is missing: nobody could ask it (RFC 9471 3.1)
        FalseCond_9: 2 of 4 refuse, taken: 2 x NAME is delegated to others and has no glue here (RFC 9471 3.2)
        FalseCond_9: 3 of 4 refuse, refused: 3 x NAME is in this zone and has no address (RFC 1912 2.3)
    "#]].assert_eq(&text);
}

/// The zones that all four servers serve.
#[test]
fn zones_that_all_servers_serve_are_taken_and_some_with_a_warning() {
    let text = unpack(include_bytes!("../../testdata/ferret/valid.jsonl.gz"));
    let mut table: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let zone = case["zone"].as_str().expect("a text");
        let origin = origin(zone);
        let source = Source {
            file: "zone",
            text: zone.as_bytes(),
            origin: &origin,
        };
        let loaded = load(&source).unwrap_or_else(|report| panic!("{zone}\n{report}"));
        let mut words = rules(&loaded.warnings);
        if words.is_empty() {
            words.push("no word".to_owned());
        }
        for rule in words {
            *table.entry(rule).or_default() += 1;
        }
    }
    let mut text = String::new();
    for (rule, count) in table {
        writeln!(text, "{count} x {rule}").expect("a string");
    }
    expect![[r#"
        5017 x no word
        38 x the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)
        1135 x the delegation of NAME hides it: it is never served (RFC 2181 6.1)
        168 x the name is delegated by its NS records: it is never served (RFC 2181 6.1)
    "#]]
    .assert_eq(&text);
}
