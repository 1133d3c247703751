//! Whether the signatures of zones end soon, though the group should have had them made anew.
//!
//! This server cannot mend it: whoever leads the group signs zones anew at half of their time. When
//! no more than a quarter is left, somebody must look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cfgdns_core::Zones;
use cfgdns_sign::{Time, Validity};
use cfgdns_zone::Name;

use crate::publish::Publisher;

/// Time between looks: many of them in a quarter of the shortest time.
const LOOK: Duration = Duration::from_mins(1);
/// Zones that are named in a line.
const NAMED_MAX: usize = 8;

/// The times of the signatures of each signed zone.
fn times(zones: &Zones) -> impl Iterator<Item = (&Name, Validity)> {
    let signed = |signer: &Arc<cfgdns_sign::Signer>| signer.signing().validity();
    let each = zones.trees();
    each.filter_map(move |tree| Some((tree.origin(), tree.signer().map(signed)?)))
}

/// When the first signatures end, s since 1970; `None` when no zone is signed.
pub(crate) fn first_end(zones: &Zones, now_s: u64) -> Option<u64> {
    let now = Time::from_unix(now_s);
    times(zones)
        .map(|(_, validity)| match validity.left(now) {
            // How long ago, of those that have ended.
            0 => now_s.saturating_sub(u64::from(now.0.wrapping_sub(validity.expiration().0))),
            left => now_s + u64::from(left),
        })
        .min()
}

/// The zones whose signatures end soon.
fn late(zones: &Zones, now_s: u64) -> BTreeSet<Name> {
    let now = Time::from_unix(now_s);
    let late = times(zones).filter(|(_, validity)| validity.is_late(now));
    late.map(|(zone, _)| zone.clone()).collect()
}

/// Logs which zones they are, as soon as they are others, until the process ends.
pub(crate) async fn watch(publisher: Arc<Publisher>) {
    let mut told = BTreeSet::new();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let zones = publisher.shared().load().zones.clone();
        let late = late(&zones, cfgdns_net::now().unix_seconds);
        if late != told {
            tell(&late);
            told = late;
        }
    }
}

fn tell(late: &BTreeSet<Name>) {
    if late.is_empty() {
        tracing::info!("no signatures end soon any more");
        return;
    }
    let named: Vec<String> = late.iter().take(NAMED_MAX).map(Name::to_string).collect();
    tracing::error!(
        count = late.len(),
        zones = named.join(" "),
        "signatures end soon and are not made anew: see the log of the group's leader, and \
         cfgctl zone key list ZONE"
    );
}

#[cfg(test)]
mod tests {
    use cfgdns_core::Tree;
    use cfgdns_sign::{Algorithm, PrivateKey, Role, Signer, Signing, ZoneKey};
    use cfgdns_zone::{Source, load};

    use super::*;

    const NOW: u64 = 1_700_000_000;

    /// A zone, signed from a moment to another.
    fn signed(origin: &str, times: Option<(u64, u64)>) -> Arc<Tree> {
        let origin: Name = origin.parse().expect("a name");
        let source = Source {
            file: "test",
            text: b"@ 60 SOA ns1.other. h.other. 1 2 3 4 5\n@ 60 NS ns1.other.\n",
            origin: &origin,
        };
        let tree = Tree::build(&load(&source).expect("a zone").zone).expect("it is small");
        let Some((from, to)) = times else {
            return Arc::new(tree);
        };
        let key = PrivateKey::from_secret(Algorithm::Ed25519, &[7; 32]).expect("a secret");
        let zone_key = ZoneKey {
            dnskey: key.dnskey(true),
            role: Role::Both,
            signs: true,
        };
        let validity = Validity::new(Time::from_unix(from), Time::from_unix(to)).expect("a time");
        let signing = Signing::new(vec![zone_key], validity).expect("a key that signs");
        let keys = [key].into_iter().collect();
        let signer = Signer::new(&origin, Arc::new(signing), &keys).expect("the key is here");
        Arc::new(tree.signed(Arc::new(signer)).expect("its signer"))
    }

    fn names(late: &BTreeSet<Name>) -> Vec<String> {
        late.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn signatures_are_late_when_a_quarter_is_left_and_the_first_that_end_are_told() {
        let zones = Zones::new([
            signed("a.", Some((NOW, NOW + 400))),
            signed("b.", Some((NOW, NOW + 4_000))),
            signed("c.", None),
        ]);
        assert_eq!(first_end(&zones, NOW), Some(NOW + 400));
        assert_eq!(names(&late(&zones, NOW + 299)), [""; 0]);
        assert_eq!(names(&late(&zones, NOW + 300)), ["a."]);
        assert_eq!(names(&late(&zones, NOW + 9_000)), ["a.", "b."]);
        assert_eq!(
            first_end(&zones, NOW + 9_000),
            Some(NOW + 400),
            "it is over"
        );
        assert_eq!(first_end(&Zones::new([signed("c.", None)]), NOW), None);
    }
}
