//! Who probes whom.
//!
//! In a small fleet everybody probes everybody. In a large one each host is probed by a few of each
//! colo, chosen by a hash of both names (rendezvous hashing): stable when hosts come and go, and
//! even, as the expander rings of Rapid are (arXiv 1803.03620).

use std::collections::BTreeMap;

use crate::placement::Name;

/// Most observers that a host has in each colo.
pub const PER_COLO: usize = 5;

/// FNV-1a, and a last stir: the same everywhere, for ever.
fn weight(observer: &Name, subject: &Name) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let bytes = observer
        .as_str()
        .bytes()
        .chain([0])
        .chain(subject.as_str().bytes());
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// Whom each host is to probe. `hosts` has the colo of each.
pub fn subjects(hosts: &BTreeMap<Name, Name>) -> BTreeMap<Name, Vec<Name>> {
    let mut colos: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for (host, colo) in hosts {
        colos.entry(colo).or_default().push(host);
    }
    let mut subjects: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
    for subject in hosts.keys() {
        for members in colos.values() {
            let mut ranked: Vec<_> = members
                .iter()
                .filter(|host| **host != subject)
                .map(|host| (weight(host, subject), *host))
                .collect();
            if ranked.len() > PER_COLO {
                ranked.select_nth_unstable(PER_COLO);
            }
            for (_, observer) in ranked.into_iter().take(PER_COLO) {
                let of = subjects.entry(observer.clone()).or_default();
                of.push(subject.clone());
            }
        }
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize, colos: usize) -> BTreeMap<Name, Name> {
        (0..count)
            .map(|at| {
                let name = |text: String| text.parse().expect("a name");
                (name(format!("h{at}")), name(format!("c{}", at % colos)))
            })
            .collect()
    }

    #[test]
    fn few_hosts_all_probe_one_another() {
        let hosts = hosts(9, 3);
        for (observer, of) in subjects(&hosts) {
            assert_eq!(of.len(), 8, "{observer}");
            assert!(!of.contains(&observer));
        }
    }

    #[test]
    fn many_hosts_have_a_few_observers_in_each_colo_and_share_the_work() {
        let hosts = hosts(1_000, 3);
        let subjects = subjects(&hosts);
        let mut observers: BTreeMap<(&Name, &Name), usize> = BTreeMap::new();
        for (observer, of) in &subjects {
            assert!(of.len() < 40, "{observer} probes {}", of.len());
            for subject in of {
                *observers.entry((subject, &hosts[observer])).or_default() += 1;
            }
        }
        assert_eq!(observers.len(), 3_000);
        assert!(observers.values().all(|count| *count == PER_COLO));
    }

    #[test]
    fn one_that_goes_changes_little() {
        let before = hosts(100, 2);
        let mut after = before.clone();
        after.remove(&"h7".parse().expect("a name"));
        let (before, after) = (subjects(&before), subjects(&after));
        let changed = after.iter().filter(|(host, of)| before[*host] != **of);
        assert!(
            changed.count() < 30,
            "those who had it as a subject, and those who take over"
        );
    }
}
