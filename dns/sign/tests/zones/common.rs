//! Zones and keys for tests, and signed zones as text.

use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_sign::{PrivateKey, Role, Set, SignedZone, Signer, Validity, nodes};
use cfgdns_testing::keys;
use cfgdns_testing::zones::{self, name};
use cfgdns_zone::{Name, Rdata, Zone};

/// 2020-01-01 and 2038-01-01: one of those who check counts in 31 bits.
pub(crate) const FROM: u32 = 1_577_836_800;
pub(crate) const TO: u32 = 2_145_916_800;

/// Everything that is signed in another way than a name with an address.
pub(crate) const ZONE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.sub
@ MX 10 Mail
@ CAA 0 issue \"ca.example\"
@ HTTPS 1 . alpn=h2
ns1 A 192.0.2.1
ns1 AAAA 2001:db8::1
Mail 300 A 192.0.2.2
Mail 300 A 192.0.2.130
Mail 300 A 192.0.2.22
* 60 TXT \"a wildcard\"
*.deep.wild A 192.0.2.7
x.y.empty TXT \"below two names without records\"
alias CNAME Mail
_sip._tcp SRV 0 0 5060 Mail
old DNAME new
host.new A 192.0.2.6
unknown TYPE65280 \\# 3 00ff10
plain NS ns.other.
sub NS ns.sub
sub NS ns.other.
sub DS 1 8 2 0000000000000000000000000000000000000000000000000000000000000000
ns.sub A 192.0.2.4
hidden.sub TXT \"nobody sees it\"
z-last A 192.0.2.9
";

pub(crate) fn zone(text: &str) -> Zone {
    zones::zone("example.", text)
}

pub(crate) fn validity() -> Validity {
    keys::validity(FROM, TO)
}

/// A signer of `example.` with these keys; those that do not sign are in the zone.
pub(crate) fn signer(keys: &[(Arc<PrivateKey>, Role, bool)]) -> Arc<Signer> {
    keys::signer(&name("example."), keys, validity())
}

/// A set as lines of a master file.
pub(crate) fn lines(set: &Set<'_>, text: &mut String) {
    let (owner, _) = Name::from_wire(&set.owner).expect("a name");
    for data in &set.data {
        let (ttl, rtype) = (set.ttl, set.rtype);
        let data = Rdata::from_wire(rtype, data).expect("valid data");
        let data = data.text(rtype, None);
        writeln!(text, "{owner} {ttl} IN {rtype} {data}").expect("a string");
    }
}

/// A signed zone as a master file.
pub(crate) fn signed(signer: &Signer, zone: &Zone) -> String {
    let mut text = String::new();
    for set in SignedZone::new(signer, nodes(zone)).expect("it has an SOA") {
        lines(&set, &mut text);
    }
    text
}
