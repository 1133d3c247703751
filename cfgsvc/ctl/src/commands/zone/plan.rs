//! How a zone becomes another: which keys are written, and in which steps. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgdns_zone::{Name, Zone};
use cfgsvc_core::zones::{NodeObject, ZoneName, keys, later};

use super::stored::{Stored, set_serial};

/// Most operations of a transaction, less what names the generation.
const OPS_MAX: usize = 120;
/// Most bytes of keys and values in it: the group takes requests of 1.5 MiB.
const BYTES_MAX: usize = 1 << 20;

/// One name that differs; `None`: it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) name: Name,
    pub(crate) value: Option<Bytes>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing differs.
    Nothing,
    /// In one transaction, in the generation that is in force.
    Edits(Vec<Edit>),
    /// All names of the zone, into a generation of their own, which then comes into force.
    Generation(Vec<Edit>),
}

/// A name's value.
fn value(zone: &ZoneName, name: &Name, node: &cfgdns_zone::Node) -> Bytes {
    let object = NodeObject::of(zone, name, node);
    serde_json::to_vec(&object)
        .expect("an object of texts and numbers is JSON")
        .into()
}

/// Where the serial of `new` says nothing new, it is that of `stored`: the group counts it.
pub(crate) fn settle_serial(stored: &Stored, new: &mut Zone) {
    let (Some(soa), Some(kept)) = (new.soa(), stored.zone.soa()) else {
        return;
    };
    let count = u64::from(stored.serial);
    if soa.serial == stored.serial || later(count, soa.serial) == count + 1 {
        set_serial(new, kept.serial);
    }
}

/// The keys that make `new` out of `stored`.
pub(crate) fn plan(stored: &Stored, new: &Zone) -> Plan {
    let zone = &stored.name;
    let values = |of: &Zone| -> BTreeMap<Name, Bytes> {
        let each = of
            .nodes()
            .map(|(name, node)| (name.clone(), value(zone, name, node)));
        each.collect()
    };
    let (before, mut after) = (values(&stored.zone), values(new));
    let all = |values: &BTreeMap<Name, Bytes>| {
        let each = values.iter().map(|(name, value)| Edit {
            name: name.clone(),
            value: Some(value.clone()),
        });
        each.collect::<Vec<_>>()
    };
    let whole = all(&after);
    let mut edits = Vec::new();
    for (name, was) in before {
        match after.remove(&name) {
            Some(is) if is == was => {}
            value => edits.push(Edit { name, value }),
        }
    }
    edits.extend(all(&after));
    if edits.is_empty() && stored.settings.is_some() {
        return Plan::Nothing;
    }
    let bytes: usize = edits.iter().map(|edit| edit.bytes(zone)).sum();
    if edits.len() <= OPS_MAX && bytes <= BYTES_MAX {
        Plan::Edits(edits)
    } else {
        Plan::Generation(whole)
    }
}

impl Edit {
    /// Bytes of the key and the value in a request.
    fn bytes(&self, zone: &ZoneName) -> usize {
        let key = keys::node(zone, u64::MAX, &self.name).len();
        key + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Cuts edits into transactions of their own.
pub(crate) fn batches(zone: &ZoneName, edits: Vec<Edit>) -> Vec<Vec<Edit>> {
    let mut all: Vec<Vec<Edit>> = Vec::new();
    let mut bytes = 0;
    for edit in edits {
        let more = edit.bytes(zone);
        let last = all.last_mut().filter(|batch| batch.len() < OPS_MAX);
        if let Some(batch) = last.filter(|_| bytes + more <= BYTES_MAX) {
            bytes += more;
            batch.push(edit);
        } else {
            bytes = more;
            all.push(vec![edit]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfgdns_zone::{Source, load};
    use cfgsvc_core::zones::Settings;

    const FILE: &str = "@ 300 SOA ns1 hostmaster 7 3600 600 604800 60\n@ 300 NS ns1\n\
                        ns1 300 A 192.0.2.1\nwww 300 A 192.0.2.2\n";

    fn name() -> ZoneName {
        "example.com".parse().expect("a zone")
    }

    fn zone(text: &str) -> Zone {
        let origin = name();
        let source = Source {
            file: "test",
            text: text.as_bytes(),
            origin: origin.name(),
        };
        load(&source).expect("a zone").zone
    }

    fn stored(text: &str, serial: u32) -> Stored {
        Stored {
            name: name(),
            revision: 5,
            settings: Some(Settings { generation: 1 }),
            versions: (4, 4),
            zone: zone(text),
            follows: Vec::new(),
            serial,
        }
    }

    fn planned(stored: &Stored, text: &str) -> Plan {
        let mut new = zone(text);
        settle_serial(stored, &mut new);
        plan(stored, &new)
    }

    fn names(plan: &Plan) -> Vec<String> {
        let Plan::Edits(edits) = plan else {
            panic!("{plan:?}");
        };
        let each = edits.iter().map(|edit| {
            let gone = if edit.value.is_none() { "-" } else { "+" };
            format!("{gone}{}", edit.name)
        });
        each.collect()
    }

    #[test]
    fn what_is_shown_applies_again_and_changes_nothing() {
        let stored = stored(FILE, 12);
        assert_eq!(planned(&stored, FILE), Plan::Nothing);
        let shown = cfgdns_zone::print(&stored.with_serial());
        assert_eq!(planned(&stored, &shown), Plan::Nothing, "{shown}");
    }

    #[test]
    fn names_that_differ_are_written_and_no_others() {
        let stored = stored(FILE, 12);
        let text = FILE.replace("www 300 A 192.0.2.2", "mail 60 A 192.0.2.3");
        assert_eq!(
            names(&planned(&stored, &text)),
            ["-www.example.com.", "+mail.example.com."]
        );
        let text = FILE.replace("192.0.2.2", "192.0.2.4");
        assert_eq!(names(&planned(&stored, &text)), ["+www.example.com."]);
        let Plan::Edits(edits) = planned(&stored, &FILE.replace("www", "WWW")) else {
            panic!("it is one name");
        };
        let value = edits[0].value.as_ref().expect("it stays");
        assert!(value.starts_with(br#"{"name":"WWW","#), "the case is kept");
    }

    #[test]
    fn a_newer_serial_of_the_file_is_a_change_and_an_older_one_is_not() {
        let stored = stored(FILE, 12);
        for (serial, changes) in [("8", false), ("12", false), ("13", false), ("14", true)] {
            let text = FILE.replace(" 7 ", &format!(" {serial} "));
            let plan = planned(&stored, &text);
            assert_eq!(plan != Plan::Nothing, changes, "{serial}: {plan:?}");
        }
    }

    #[test]
    fn more_than_a_transaction_holds_becomes_a_generation_in_batches() {
        use std::fmt::Write as _;
        let stored = stored(FILE, 12);
        let mut text = FILE.to_owned();
        for number in 0..200 {
            writeln!(text, "host{number} 300 A 192.0.2.9").expect("a String takes all");
        }
        let Plan::Generation(edits) = planned(&stored, &text) else {
            panic!("it fits");
        };
        assert_eq!(edits.len(), 203, "all names, not those alone that differ");
        assert_eq!(&edits[0].name, name().name(), "the apex is the first");
        let batches = batches(&name(), edits);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [120, 83]);
    }
}
