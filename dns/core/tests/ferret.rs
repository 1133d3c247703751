//! The cases of `FerretDataset` that are valid (dns/testdata/ferret): a reply passes when rcode, AA
//! and the answer section, as a set and without regard to case, equal any of the accepted ones; and
//! for an answer about nothing the authority section too.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;

use cfgdns_core::{CLASS_IN, Question, Rcode, Records, Tree, Zones, answer};
use cfgdns_zone::{Name, Rdata, Source, load};
use flate2::read::GzDecoder;
use serde_json::Value;

/// What is compared of a reply.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    rcode: String,
    authoritative: bool,
    answer: BTreeSet<String>,
    authority: BTreeSet<String>,
}

impl Outcome {
    /// Whether it says that there is nothing.
    fn is_negative(&self) -> bool {
        self.authority
            .iter()
            .any(|record| record.contains(" in soa "))
    }

    fn accepts(&self, found: &Self) -> bool {
        let negative = self.is_negative() || found.is_negative();
        self.rcode == found.rcode
            && self.authoritative == found.authoritative
            && self.answer == found.answer
            && (!negative || self.authority == found.authority)
    }
}

fn accepted(response: &Value) -> Outcome {
    let lines = response["Response"].as_array().expect("lines");
    let lines: Vec<&str> = lines
        .iter()
        .map(|line| line.as_str().expect("text"))
        .collect();
    let after = |word: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(word));
        line.expect("each response has it").trim().to_owned()
    };
    let section = |name: &str| {
        let from = lines
            .iter()
            .position(|line| *line == name)
            .expect("a section");
        let records = lines[from + 1..]
            .iter()
            .take_while(|line| !line.starts_with(';'));
        records.map(|record| record.to_lowercase()).collect()
    };
    Outcome {
        rcode: after("rcode"),
        authoritative: after("flags").split(' ').any(|flag| flag == "AA"),
        answer: section(";ANSWER"),
        authority: section(";AUTHORITY"),
    }
}

fn written(section: &[Records<'_>]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for records in section {
        let (owner, _) = Name::from_wire(&records.owner).expect("a name");
        let (ttl, rtype) = (records.ttl, records.rtype);
        for data in records.data() {
            let data = Rdata::from_wire(rtype, data)
                .expect("valid")
                .text(rtype, None);
            let new = lines.insert(format!("{owner} {ttl} IN {rtype} {data}").to_lowercase());
            assert!(new, "a record is there twice");
        }
    }
    lines
}

fn rcode(rcode: Rcode) -> String {
    let text = match rcode {
        Rcode::NoError => "NOERROR",
        Rcode::FormErr => "FORMERR",
        Rcode::NxDomain => "NXDOMAIN",
        Rcode::NotImp => "NOTIMP",
        Rcode::Refused => "REFUSED",
        Rcode::YxDomain => "YXDOMAIN",
        Rcode::ServFail => "SERVFAIL",
        Rcode::NotAuth => "NOTAUTH",
        Rcode::BadVers => "BADVERS",
        Rcode::BadCookie => "BADCOOKIE",
    };
    text.to_owned()
}

/// What we answer to the question of a case.
fn answered(zone: &str, query: &Value) -> Outcome {
    let origin: Name = zone
        .split_whitespace()
        .next()
        .expect("a word")
        .parse()
        .expect("a name");
    let source = Source {
        file: "zone",
        text: zone.as_bytes(),
        origin: &origin,
    };
    let loaded = load(&source).unwrap_or_else(|report| panic!("{report}"));
    let zones = Zones::new([Arc::new(Tree::build(&loaded.zone).expect("it has an SOA"))]);
    let name: Name = query["Name"]
        .as_str()
        .expect("text")
        .parse()
        .expect("a name");
    let rtype = query["Type"]
        .as_str()
        .expect("text")
        .parse()
        .expect("a type");
    let question = Question {
        name: &name,
        rtype,
        class: CLASS_IN,
    };
    let reply = answer(&zones, &question);
    Outcome {
        rcode: rcode(reply.rcode),
        authoritative: reply.authoritative,
        answer: written(&reply.answer),
        authority: written(&reply.authority),
    }
}

#[test]
fn reply_to_every_case_is_one_that_a_server_of_four_gives() {
    let mut text = String::new();
    let packed = include_bytes!("../../testdata/ferret/valid.jsonl.gz");
    GzDecoder::new(&packed[..])
        .read_to_string(&mut text)
        .expect("gzip of UTF-8");
    let (mut cases, mut failed) = (0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let zone = case["zone"].as_str().expect("text");
        for expected in case["exp"].as_array().expect("a list") {
            cases += 1;
            let found = answered(zone, &expected["Query"]);
            let responses = expected["Expected Response"].as_array().expect("a list");
            let responses: Vec<Outcome> = responses.iter().map(accepted).collect();
            if !responses.iter().any(|response| response.accepts(&found)) {
                let (id, tag, query) =
                    (&case["id"], &expected["ZenResponseTag"], &expected["Query"]);
                failed.push(format!(
                    "{id} {tag} {query}\n{zone}\nfound {found:#?}\naccepted {responses:#?}"
                ));
            }
        }
    }
    assert_eq!(cases, 6_334);
    let shown = failed
        .iter()
        .take(5)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n\n");
    assert!(
        failed.is_empty(),
        "{} of {cases} cases fail; the first:\n{shown}",
        failed.len()
    );
}
