//! What a name that follows a role has now: sets made of who holds it.
//!
//! Beside each such name there is one more, `_cfgsvc.NAME`, whose TXT record tells role, holder,
//! epoch and the revision of the last move: what an operator looks at who asks which epoch a name
//! server answers from. It is one below, because a name with a CNAME has nothing else (RFC 1034
//! 3.6.2), and begins with an underscore, as names do that are no host's (RFC 8552).

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;

use cfgdns_core::LiveSet;
use cfgdns_zone::{Name, Rdata, RrSet, Rtype, Zone};
use cfgsvc_core::placement::RoleName;
use cfgsvc_core::zones::{EPOCH_LABEL, Follow, FollowType, ZoneName};

use crate::placement::{Holder, Placement, Read};

/// The names of a zone that follow roles.
pub(crate) type Follows = BTreeMap<(Name, FollowType), Follow>;

/// What must be known to make the sets of a zone again whenever a role moves: nothing else of the
/// zone is looked at then.
#[derive(Debug)]
pub(crate) struct Following {
    zone: ZoneName,
    follows: Vec<(Name, FollowType, Follow)>,
    told: Vec<Told>,
}

/// A name whose TXT records tell the epochs of roles.
#[derive(Debug)]
struct Told {
    name: Name,
    ttl: u32,
    roles: BTreeSet<RoleName>,
}

/// The name that tells the epoch of one that follows; none where the operator has something there,
/// or it follows a role itself, it would be too long, the name stands for others, or nothing is
/// answered from there because a name above it is delegated or has a DNAME.
fn epoch_name(name: &Name, zone: &Zone, followed: &BTreeSet<&Name>) -> Option<Name> {
    let told = name.child(EPOCH_LABEL.as_bytes()).ok()?;
    let taken = zone.exists(&told) || followed.contains(&told);
    let mut above = successors(Some(name.clone()), Name::parent)
        .take_while(|above| above.is_at_or_below(zone.origin()));
    let hidden = above.any(|above| {
        let has = |rtype| zone.set(&above, rtype).is_some();
        has(Rtype::DNAME) || above != *zone.origin() && has(Rtype::NS)
    });
    (!name.is_wildcard() && !taken && !hidden).then_some(told)
}

impl Following {
    /// What follows roles in a zone that has these names otherwise.
    pub(crate) fn new(zone_name: &ZoneName, zone: &Zone, follows: &Follows) -> Self {
        // By name: the roles that it follows, and the least TTL.
        let mut roles: BTreeMap<&Name, (BTreeSet<RoleName>, u32)> = BTreeMap::new();
        for ((name, _), follow) in follows {
            let (roles, ttl) = roles.entry(name).or_insert((BTreeSet::new(), follow.ttl));
            roles.insert(follow.role.clone());
            *ttl = follow.ttl.min(*ttl);
        }
        let followed: BTreeSet<&Name> = roles.keys().copied().collect();
        let told = roles.into_iter().filter_map(|(name, (roles, ttl))| {
            let name = epoch_name(name, zone, &followed)?;
            Some(Told { name, ttl, roles })
        });
        let follows = follows.iter();
        Self {
            zone: zone_name.clone(),
            follows: follows
                .map(|((name, rtype), follow)| (name.clone(), *rtype, follow.clone()))
                .collect(),
            told: told.collect(),
        }
    }

    /// The names that must be in the tree for the sets.
    pub(crate) fn names(&self) -> BTreeSet<Name> {
        let follow = self.follows.iter().map(|(name, ..)| name);
        let told = self.told.iter().map(|told| &told.name);
        follow.chain(told).cloned().collect()
    }

    /// What the names have now; the error says what cannot be known.
    pub(crate) fn sets(&self, placement: &Placement) -> Read<Vec<LiveSet>> {
        let mut sets = Vec::with_capacity(self.follows.len() + self.told.len());
        for (name, rtype, follow) in &self.follows {
            let (_, holder) = placement.holder(&follow.role)?;
            let mut set = LiveSet {
                name: name.clone(),
                rtype: rtype.rtype(),
                ttl: follow.ttl,
                data: Vec::new(),
                weights: Vec::new(),
            };
            if let Some(holder) = holder {
                fill(&mut set, &self.zone, (*rtype, follow), &holder);
            }
            sets.push(set);
        }
        for Told { name, ttl, roles } in &self.told {
            let texts = roles.iter().map(|role| epoch_text(role, placement));
            let texts: Vec<Rdata> = texts.collect::<Read<_>>()?;
            sets.extend(in_order(name.clone(), Rtype::TXT, *ttl, texts));
        }
        Ok(sets)
    }
}

/// Puts what follows from the holder into a set that has nothing.
fn fill(
    set: &mut LiveSet,
    zone: &ZoneName,
    (rtype, follow): (FollowType, &Follow),
    holder: &Holder<'_>,
) {
    match rtype {
        FollowType::A | FollowType::Aaaa => addresses(set, rtype, follow, holder),
        FollowType::Cname => {
            let target = follow.target(zone, holder.name.as_str());
            set.data
                .extend(target.and_then(|target| wire(Rtype::CNAME, target.as_wire())));
        }
        FollowType::Srv => {
            let target = follow.target(zone, holder.name.as_str());
            let port = follow.port.or_else(|| holder.port());
            if let Some((target, port)) = target.zip(port) {
                // Priority and weight choose among several; there is one.
                let data = [&[0, 0, 0, 0], &port.to_be_bytes()[..], target.as_wire()].concat();
                set.data.extend(wire(Rtype::SRV, &data));
            }
        }
    }
}

fn addresses(set: &mut LiveSet, rtype: FollowType, follow: &Follow, holder: &Holder<'_>) {
    // Each once, in canonical order: that of their octets.
    let mut found: BTreeMap<Vec<u8>, u16> = BTreeMap::new();
    for ip in holder.ips() {
        let octets = match (rtype, ip) {
            (FollowType::A, IpAddr::V4(ip)) => ip.octets().to_vec(),
            (FollowType::Aaaa, IpAddr::V6(ip)) => ip.octets().to_vec(),
            _ => continue,
        };
        let weight = follow.weights.get(&ip).copied().unwrap_or(1);
        if weight > 0 {
            found.insert(octets, weight);
        }
    }
    let several = found.len() > 1;
    for (octets, weight) in found {
        if let Some(data) = wire(rtype.rtype(), &octets) {
            set.data.push(data);
            set.weights.extend(several.then_some(weight));
        }
    }
}

fn wire(rtype: Rtype, octets: &[u8]) -> Option<Rdata> {
    Rdata::from_wire(rtype, octets).ok()
}

/// What is told of a role: a word in each string of a TXT record (RFC 1464 has this form).
fn epoch_text(role: &RoleName, placement: &Placement) -> Read<Rdata> {
    let (epoch, holder) = placement.holder(role)?;
    let moves = placement.moves(role)?;
    let mut words = vec![format!("role={role}")];
    words.extend(holder.map(|holder| format!("holder={}", holder.name.as_str())));
    words.push(format!("epoch={epoch}"));
    words.push(format!("revision={}", moves.revision));
    let mut data = Vec::new();
    for word in words {
        // Names have at most 253 bytes: cut off, they say what they can.
        let word = &word.as_bytes()[..word.len().min(255)];
        data.extend(u8::try_from(word.len()));
        data.extend_from_slice(word);
    }
    wire(Rtype::TXT, &data).ok_or_else(|| format!("role '{role}' cannot be told"))
}

/// A set with its records in canonical order; none without records.
fn in_order(name: Name, rtype: Rtype, ttl: u32, data: Vec<Rdata>) -> Option<LiveSet> {
    let mut data = data.into_iter();
    let mut set = RrSet::new(rtype, ttl, data.next()?);
    for data in data {
        // A name follows at most four roles.
        set.insert(data).ok()?;
    }
    Some(LiveSet {
        name,
        rtype,
        ttl,
        data: set.data().to_vec(),
        weights: Vec::new(),
    })
}
