//! Master files, written: the same zone gives the same text, and reading it gives the zone again.
//!
//! Names are relative to the origin, the TTL that most sets have is said once, and the SOA record
//! comes first, as people expect it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::name::Name;
use crate::rtype::Rtype;
use crate::zone::{Node, RrSet, Zone};

/// The zone as a master file.
pub fn print(zone: &Zone) -> String {
    let origin = zone.origin();
    let default_ttl = usual_ttl(zone);
    let mut text = format!("$ORIGIN {origin}\n$TTL {default_ttl}\n");
    let printer = Printer {
        origin,
        default_ttl,
    };
    for (name, node) in zone.nodes() {
        printer.node(name, node, &mut text);
    }
    text
}

/// The TTL that most sets have; the lowest of those that are as common.
fn usual_ttl(zone: &Zone) -> u32 {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for set in zone.nodes().flat_map(|(_, node)| node.sets()) {
        *counts.entry(set.ttl()).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    let usual = counts.into_iter().find(|(_, count)| *count == most);
    usual.map_or(3_600, |(ttl, _)| ttl)
}

struct Printer<'a> {
    origin: &'a Name,
    default_ttl: u32,
}

impl Printer<'_> {
    fn node(&self, name: &Name, node: &Node, text: &mut String) {
        let mut owner = name.relative_text(self.origin);
        let soa_first = |set: &&RrSet| set.rtype() == Rtype::SOA;
        let others = |set: &&RrSet| set.rtype() != Rtype::SOA;
        let sets = node.sets().iter().filter(soa_first);
        for set in sets.chain(node.sets().iter().filter(others)) {
            let ttl = if set.ttl() == self.default_ttl {
                String::new()
            } else {
                set.ttl().to_string()
            };
            for data in set.data() {
                let rtype = set.rtype();
                let data = data.text(rtype, Some(self.origin));
                writeln!(text, "{owner:<23} {ttl:>7} {rtype:<7} {data}")
                    .expect("a string takes everything");
                owner.clear();
            }
        }
    }
}
