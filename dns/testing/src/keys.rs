//! Keys and signers that are the same each time, so that a test can say what is signed how.

use std::sync::Arc;

use cfgdns_sign::{Algorithm, Dnskey, PrivateKey, Role, Signer, Signing, Time, Validity, ZoneKey};
use cfgdns_zone::Name;

/// The key whose secret is this octet, again and again.
pub fn key(algorithm: Algorithm, octet: u8) -> Arc<PrivateKey> {
    let key = PrivateKey::from_secret(algorithm, &[octet; 32]);
    Arc::new(key.expect("a secret of either algorithm"))
}

/// The key as one of a zone.
pub fn zone_key(key: &PrivateKey, role: Role, signs: bool) -> ZoneKey {
    ZoneKey {
        dnskey: key.dnskey(role.is_secure_entry()),
        role,
        signs,
    }
}

/// From one moment to another.
pub fn validity(from: u32, to: u32) -> Validity {
    Validity::new(Time(from), Time(to)).expect("the end is after the beginning")
}

/// A signer with these keys; those that do not sign are in the zone.
pub fn signer(
    origin: &Name,
    keys: &[(Arc<PrivateKey>, Role, bool)],
    validity: Validity,
) -> Arc<Signer> {
    let zone_keys = keys.iter();
    let zone_keys = zone_keys.map(|(key, role, signs)| zone_key(key, *role, *signs));
    let signing = Signing::new(zone_keys.collect(), validity).expect("keys that sign");
    let private = keys.iter().map(|(key, ..)| Arc::clone(key)).collect();
    Arc::new(Signer::new(origin, Arc::new(signing), &private).expect("all keys"))
}

/// The key of octets 1 for the keys, and that of octets 2 for the zone.
pub fn split_keys(algorithm: Algorithm) -> [(Arc<PrivateKey>, Role, bool); 2] {
    [(1, Role::KeySigning), (2, Role::ZoneSigning)]
        .map(|(octet, role)| (key(algorithm, octet), role, true))
}

/// The keys of a zone, as a validator knows them.
pub fn dnskeys(signer: &Signer) -> Vec<Dnskey> {
    let keys = signer.signing().keys().iter();
    keys.map(|key| key.dnskey.clone()).collect()
}
