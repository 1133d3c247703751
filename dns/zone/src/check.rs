//! The rules of a zone: what must hold before anybody serves it.
//!
//! A zone is refused when a name server would have to choose what it means, or when other name
//! servers would not take it: a careful resolver must get the same answer from all. Where most
//! servers take what is written, so do we, with a warning.
//!
//! Refused
//! - no SOA, more than one, or elsewhere than at the origin (RFC 1035 5.2); no NS at the origin
//!   (RFC 1034 4.2.1);
//! - CNAME beside anything, or twice (RFC 1034 3.6.2);
//! - DNAME twice or above anything (RFC 6672 2.4), or at a delegated name (RFC 6672 2.3);
//! - NS that leads to an alias (RFC 2181 10.3), or to a name of this zone without an address;
//! - NS at a wildcard: what it delegates is not defined (RFC 4592 4.2), and a proof that a name
//!   made by it has no other type is one of a delegation, which validators refuse (RFC 6840 4.1);
//! - a set that fits into no message.
//!
//! Warned of
//! - data that a delegation hides (RFC 2181 6.1), and DS where no delegation is (RFC 4035 2.4);
//! - MX or SRV that leads to an alias (RFC 2181 10.3, RFC 2782), or to no address;
//! - NS below another delegation, without glue (RFC 9471 3.2);
//! - CNAME that leads back to itself; DNAME at a wildcard (RFC 6672 3.3).

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::{Fault, Report};
use crate::name::Name;
use crate::rdata::additional_target;
use crate::rtype::Rtype;
use crate::zone::{Node, RrSet, SET_OCTETS_MAX, Zone};

/// Aliases that are followed, as by the server that answers.
const ALIASES_MAX: usize = 16;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why the zone is refused; empty when it is not.
    pub faults: Report,
    /// What is likely not meant.
    pub warnings: Report,
}

impl Findings {
    fn refuse(&mut self, at: (&Name, Rtype), record: String, rule: String, hint: &str) {
        self.faults.add(fault(at, record, rule, hint));
    }

    fn warn(&mut self, at: (&Name, Rtype), record: String, rule: String, hint: &str) {
        self.warnings.add(fault(at, record, rule, hint));
    }
}

fn fault((name, rtype): (&Name, Rtype), record: String, rule: String, hint: &str) -> Fault {
    Fault {
        line: None,
        record,
        rule,
        hint: hint.to_owned(),
        about: Some((name.clone(), rtype)),
    }
}

/// The first record of a set, as messages show it.
fn first(name: &Name, set: &RrSet) -> String {
    nth(name, set, 0)
}

fn nth(name: &Name, set: &RrSet, index: usize) -> String {
    let rtype = set.rtype();
    let text = set.data()[index].text(rtype, None);
    let text = crate::token::shown(text.as_bytes());
    format!("`{name} {rtype} {text}`")
}

/// Checks the whole of a zone.
pub fn check(zone: &Zone) -> Findings {
    let mut found = Findings {
        faults: Report::new(&zone.origin().to_string()),
        warnings: Report::new(&zone.origin().to_string()),
    };
    apex(zone, &mut found);
    let servers = server_names(zone);
    let endless = endless_aliases(zone);
    let (mut cut, mut dname): (Option<&Name>, Option<&Name>) = (None, None);
    for (name, node) in zone.nodes() {
        node_alone(name, node, &mut found);
        cut = cut.filter(|cut| name.is_below(cut));
        dname = dname.filter(|dname| name.is_below(dname));
        if let Some(cut) = cut {
            hidden(name, node, cut, &servers, &mut found);
            continue;
        }
        if let Some(dname) = dname {
            below_dname(name, node, dname, &mut found);
        }
        let is_apex = name == zone.origin();
        if node.has(Rtype::NS) && !is_apex {
            cut = Some(name);
            beside_cut(name, node, &servers, &mut found);
        } else {
            beside(zone, name, node, &endless, &mut found);
        }
        if node.has(Rtype::DNAME) {
            dname = dname.or(Some(name));
        }
        targets(zone, name, node, &mut found);
    }
    found
}

/// Checks what one name has by itself: what can be said before the rest of the zone is known, when
/// a single name is written.
pub fn check_node(name: &Name, node: &Node) -> Findings {
    let mut found = Findings {
        faults: Report::new(&name.to_string()),
        warnings: Report::new(&name.to_string()),
    };
    node_alone(name, node, &mut found);
    found
}

fn apex(zone: &Zone, found: &mut Findings) {
    let origin = zone.origin();
    let needed = [
        (
            Rtype::SOA,
            "the zone has no SOA record (RFC 1035 5.2)",
            format!("write `{origin} SOA ns1.{origin} hostmaster.{origin} 1 3600 600 604800 60`"),
        ),
        (
            Rtype::NS,
            "the zone names no name server of its own (RFC 1034 4.2.1)",
            format!("write `{origin} NS NAME` for each name server, as the delegation has them"),
        ),
    ];
    for (rtype, rule, hint) in needed {
        if zone.set(origin, rtype).is_none() {
            found.refuse((origin, rtype), origin.to_string(), rule.to_owned(), &hint);
        }
    }
    for (name, node) in zone.nodes().filter(|(name, _)| *name != origin) {
        if let Some(set) = node.set(Rtype::SOA) {
            let rule = format!("SOA stands only at the zone's own name, {origin} (RFC 1035 5.2)");
            let hint = "remove the record, or put the names below it into a zone of their own";
            found.refuse((name, Rtype::SOA), first(name, set), rule, hint);
        }
    }
}

fn node_alone(name: &Name, node: &Node, found: &mut Findings) {
    for set in node.sets() {
        let rtype = set.rtype();
        if let Some(refusal) = rtype.refusal() {
            let rule = format!("{rtype}: {}", refusal.rule);
            found.refuse((name, rtype), first(name, set), rule, refusal.hint);
        }
        let single = match rtype {
            Rtype::SOA => Some("RFC 1035 5.2"),
            Rtype::CNAME => Some("RFC 2181 10.1"),
            Rtype::DNAME => Some("RFC 6672 2.4"),
            _ => None,
        };
        if let (Some(rfc), 2..) = (single, set.data().len()) {
            let count = set.data().len();
            let rule = format!("a name has one {rtype} at most ({rfc}), and there are {count}");
            let hint = "remove all but one of them";
            found.refuse((name, rtype), nth(name, set, 1), rule, hint);
        }
        let octets: usize = set
            .data()
            .iter()
            .map(|data| data.as_wire().len() + 12)
            .sum();
        if octets + name.as_wire().len() > SET_OCTETS_MAX {
            let rule = format!(
                "its set of {} records has {octets} octets, and a message of at most 65535 must \
                 hold all of them (RFC 2181 5)",
                set.data().len()
            );
            let hint = "spread the records over several names";
            found.refuse((name, rtype), first(name, set), rule, hint);
        }
    }
    if let (Some(cname), 2..) = (node.set(Rtype::CNAME), node.sets().len()) {
        let others: Vec<String> = node
            .sets()
            .iter()
            .map(RrSet::rtype)
            .filter(|rtype| *rtype != Rtype::CNAME)
            .map(|rtype| rtype.to_string())
            .collect();
        let rule = format!(
            "a name that is an alias has no other records (RFC 1034 3.6.2), and it has {}",
            others.join(", ")
        );
        let hint = "remove the CNAME, or the other records; at a zone's own name write A and AAAA";
        found.refuse((name, Rtype::CNAME), first(name, cname), rule, hint);
    }
    let is_apex = node.has(Rtype::SOA);
    if let (Some(ns), true, false) = (node.set(Rtype::NS), name.is_wildcard(), is_apex) {
        let rule = "what NS at a wildcard delegates is not defined (RFC 4592 4.2)".to_owned();
        let hint = "write the NS records at the names that are delegated";
        found.refuse((name, Rtype::NS), first(name, ns), rule, hint);
    }
    if let (Some(dname), true) = (node.set(Rtype::DNAME), name.is_wildcard()) {
        let rule = "what a DNAME at a wildcard means is not defined (RFC 6672 3.3)".to_owned();
        let hint = "write the DNAME at the names that are meant";
        found.warn((name, Rtype::DNAME), first(name, dname), rule, hint);
    }
}

/// The names of all name servers: addresses of them may stand below a delegation.
fn server_names(zone: &Zone) -> BTreeSet<Name> {
    let sets = zone.nodes().filter_map(|(_, node)| node.set(Rtype::NS));
    let data = sets.flat_map(RrSet::data);
    data.filter_map(|data| Some(Name::from_wire(data.as_wire()).ok()?.0))
        .collect()
}

fn hidden(name: &Name, node: &Node, cut: &Name, servers: &BTreeSet<Name>, found: &mut Findings) {
    for set in node.sets() {
        let address = matches!(set.rtype(), Rtype::A | Rtype::AAAA);
        if address && servers.contains(name) {
            continue;
        }
        let rule = format!("the delegation of {cut} hides it: it is never served (RFC 2181 6.1)");
        let hint = "remove it, or write it into the delegated zone";
        found.warn((name, set.rtype()), first(name, set), rule, hint);
    }
}

fn below_dname(name: &Name, node: &Node, dname: &Name, found: &mut Findings) {
    let Some(set) = node.sets().first() else {
        return;
    };
    let rule = format!("nothing stands below {dname}, which has a DNAME (RFC 6672 2.4)");
    let hint = "remove it, or the DNAME; write it where the DNAME leads";
    found.refuse((name, set.rtype()), first(name, set), rule, hint);
}

fn beside_cut(name: &Name, node: &Node, servers: &BTreeSet<Name>, found: &mut Findings) {
    for set in node.sets() {
        let rtype = set.rtype();
        let address = matches!(rtype, Rtype::A | Rtype::AAAA);
        if matches!(rtype, Rtype::NS | Rtype::DS) || address && servers.contains(name) {
            continue;
        }
        if rtype == Rtype::DNAME {
            let rule = "a delegated name has no DNAME (RFC 6672 2.3), and it has NS".to_owned();
            let hint = "remove the DNAME, or the NS records";
            found.refuse((name, rtype), first(name, set), rule, hint);
            continue;
        }
        // CNAME is refused already.
        let rule = "the name is delegated by its NS records: it is never served (RFC 2181 6.1)";
        let hint = "remove it, or write it into the delegated zone";
        found.warn((name, rtype), first(name, set), rule.to_owned(), hint);
    }
}

/// The names whose aliases lead in a circle, or over more others than are followed. Each alias is
/// looked at once, however long the ways are. Names are told apart by where the zone has them:
/// that is cheaper than by their labels, and no outcome depends on the order of the places.
fn endless_aliases(zone: &Zone) -> BTreeSet<*const Name> {
    let alias = |node: &Node| {
        let data = node.set(Rtype::CNAME)?.data().first()?;
        Some(Name::from_wire(data.as_wire()).ok()?.0)
    };
    // How many aliases follow each other from a name; of those on the way, as if without end.
    let mut lengths: BTreeMap<*const Name, usize> = BTreeMap::new();
    for start in zone.nodes() {
        let mut way = Vec::new();
        let mut next = Some(start);
        let mut length = 0;
        while let Some((name, node)) = next {
            let name = std::ptr::from_ref(name);
            if let Some(known) = lengths.get(&name) {
                length = *known;
                break;
            }
            let Some(target) = alias(node) else {
                break;
            };
            lengths.insert(name, usize::MAX);
            way.push(name);
            next = zone
                .entry(&target)
                .or_else(|| wildcard(zone, &way_up(zone, &target)));
        }
        for name in way.into_iter().rev() {
            length = length.saturating_add(1);
            lengths.insert(name, length);
        }
    }
    let endless = lengths
        .into_iter()
        .filter(|(_, length)| *length > ALIASES_MAX);
    endless.map(|(name, _)| name).collect()
}

/// What is not a delegation.
fn beside(
    zone: &Zone,
    name: &Name,
    node: &Node,
    endless: &BTreeSet<*const Name>,
    found: &mut Findings,
) {
    if let Some(set) = node.set(Rtype::DS) {
        let rule = "the name is not delegated: there is no key to vouch for (RFC 4035 2.4)";
        let hint = if name == zone.origin() {
            "write it into the zone above"
        } else {
            "remove it, or write the NS records of the delegation"
        };
        found.warn((name, Rtype::DS), first(name, set), rule.to_owned(), hint);
    }
    if let Some(set) = node.set(Rtype::CNAME)
        && endless.contains(&std::ptr::from_ref(name))
    {
        let rule = "the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)";
        let hint = "write the CNAME of the name that holds the data";
        found.warn(
            (name, Rtype::CNAME),
            first(name, set),
            rule.to_owned(),
            hint,
        );
    }
}

/// Where a name of the zone leads.
enum Place<'z> {
    /// Out of the zone.
    Outside,
    /// At or below this delegation, with what is written there.
    Delegated(&'z Name, Option<&'z Node>),
    /// To an alias.
    Alias,
    /// To what answers, perhaps from a wildcard; none when the name does not exist.
    Answered(Option<&'z Node>),
}

fn place<'z>(zone: &'z Zone, target: &Name) -> Place<'z> {
    if !target.is_at_or_below(zone.origin()) {
        return Place::Outside;
    }
    let path = way_up(zone, target);
    for name in path.iter().rev() {
        let Some((name, node)) = zone.entry(name) else {
            continue;
        };
        if node.has(Rtype::NS) && name != zone.origin() {
            return Place::Delegated(name, zone.node(target));
        }
        if node.has(Rtype::DNAME) && name != target {
            return Place::Alias;
        }
    }
    let entry = zone.entry(target).or_else(|| wildcard(zone, &path));
    let node = entry.map(|(_, node)| node);
    if node.is_some_and(|node| node.has(Rtype::CNAME)) {
        return Place::Alias;
    }
    Place::Answered(node)
}

/// A name and those above it, up to the origin; none when it is outside the zone.
fn way_up(zone: &Zone, name: &Name) -> Vec<Name> {
    let above = std::iter::successors(Some(name.clone()), Name::parent);
    let within = |name: &Name| name.is_at_or_below(zone.origin());
    above.take_while(within).collect()
}

/// The wildcard that answers for a name that does not exist (RFC 4592 3.3.1), by the way up from
/// the name.
fn wildcard<'z>(zone: &'z Zone, path: &[Name]) -> Option<(&'z Name, &'z Node)> {
    let encloser = path.iter().find(|name| zone.exists(name))?;
    if *encloser == path[0] {
        return None;
    }
    zone.entry(&encloser.child(b"*").ok()?)
}

/// The names that NS, MX and SRV records lead to.
fn targets(zone: &Zone, name: &Name, node: &Node, found: &mut Findings) {
    for set in node.sets() {
        let rtype = set.rtype();
        if !matches!(rtype, Rtype::NS | Rtype::MX | Rtype::SRV) {
            continue;
        }
        for (index, data) in set.data().iter().enumerate() {
            let wire = additional_target(rtype, data.as_wire()).unwrap_or_default();
            let Ok((target, _)) = Name::from_wire(wire) else {
                continue;
            };
            // A lone dot says that there is no service (RFC 2782, RFC 7505).
            if target.is_root() && rtype != Rtype::NS {
                continue;
            }
            if let Some((refused, rule, hint)) = target_rule(zone, name, rtype, &target) {
                let record = nth(name, set, index);
                if refused {
                    found.refuse((name, rtype), record, rule, hint);
                } else {
                    found.warn((name, rtype), record, rule, hint);
                }
            }
        }
    }
}

/// What is wrong with one of them, and whether the zone is refused for it.
fn target_rule(
    zone: &Zone,
    name: &Name,
    rtype: Rtype,
    target: &Name,
) -> Option<(bool, String, &'static str)> {
    let has_address =
        |node: Option<&Node>| node.is_some_and(|node| node.has(Rtype::A) || node.has(Rtype::AAAA));
    let is_server = rtype == Rtype::NS;
    let rfc = if rtype == Rtype::SRV {
        "RFC 2782"
    } else {
        "RFC 2181 10.3"
    };
    match place(zone, target) {
        Place::Alias => Some((
            is_server,
            format!("{target} is an alias, and {rtype} leads to a name with addresses ({rfc})"),
            "write the name that the alias leads to",
        )),
        Place::Answered(node) if !has_address(node) => Some((
            is_server,
            format!("{target} is in this zone and has no address (RFC 1912 2.3)"),
            "write an A or AAAA record of it, or another name",
        )),
        Place::Delegated(cut, node) if is_server && !has_address(node) => {
            let own = cut == name;
            let rule = if own {
                format!("the glue of {target} is missing: nobody could ask it (RFC 9471 3.1)")
            } else {
                format!("{target} is delegated to others and has no glue here (RFC 9471 3.2)")
            };
            Some((own, rule, "write its A or AAAA record into this zone too"))
        }
        Place::Outside | Place::Delegated(..) | Place::Answered(_) => None,
    }
}
