//! Who probes whom.
//!
//! In a small fleet everybody probes everybody. In a large one each host is probed by a few of each
//! colo: on as many rings, each with the hosts of the colo in another order, by whoever is next on
//! the ring. That is stable when hosts come and go, and even, as the expander rings of Rapid are
//! (arXiv 1803.03620); and it is found quickly for thousands of hosts.

use std::collections::BTreeMap;

use crate::placement::Name;

/// Most observers that a host has in each colo.
pub const PER_COLO: usize = 5;

/// Where a host is on a ring. FNV-1a, and a last stir: the same everywhere, for ever.
fn place(ring: usize, host: &Name) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in host.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut stirred = hash.wrapping_add((ring as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    stirred = (stirred ^ (stirred >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    stirred = (stirred ^ (stirred >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    stirred ^ (stirred >> 31)
}

/// The rings of a colo: its hosts in order of their places.
type Rings<'a> = Vec<Vec<(u64, &'a Name)>>;

fn rings<'a>(members: &[&'a Name]) -> Rings<'a> {
    let ring = |number| {
        let places = members.iter().map(|host| (place(number, host), *host));
        let mut ring: Vec<_> = places.collect();
        ring.sort_unstable();
        ring
    };
    (0..PER_COLO).map(ring).collect()
}

/// Who probes `subject`: on each ring the next one behind it that does not do so yet.
fn observers<'a>(rings: &Rings<'a>, subject: &Name) -> Vec<&'a Name> {
    let mut chosen: Vec<&Name> = Vec::new();
    for (number, ring) in rings.iter().enumerate() {
        let from = (place(number, subject), subject);
        let at = ring.partition_point(|one| *one <= from);
        let (before, behind) = ring.split_at(at);
        let mut next = behind.iter().chain(before).map(|(_, host)| *host);
        chosen.extend(next.find(|host| *host != subject && !chosen.contains(host)));
    }
    chosen
}

/// Whom each host is to probe. `hosts` has the colo of each.
pub fn subjects(hosts: &BTreeMap<Name, Name>) -> BTreeMap<Name, Vec<Name>> {
    let mut colos: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for (host, colo) in hosts {
        colos.entry(colo).or_default().push(host);
    }
    let colos: Vec<Rings<'_>> = colos.values().map(|members| rings(members)).collect();
    let mut subjects: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
    for subject in hosts.keys() {
        for observer in colos.iter().flat_map(|rings| observers(rings, subject)) {
            let of = subjects.entry(observer.clone()).or_default();
            of.push(subject.clone());
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
