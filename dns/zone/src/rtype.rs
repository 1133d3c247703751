//! Types of records, and which of them a zone may hold.
//!
//! A type is a number; the mnemonics are those of the IANA registry that a zone of today can need.
//! Every other type is written `TYPE123`, and its data `\# LENGTH HEX` (RFC 3597 5).

use std::fmt;
use std::str::FromStr;

/// The type of a record or of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rtype(pub u16);

/// A text that names no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no record type has this name")]
pub struct UnknownType;

/// Why a zone must not hold records of a type, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRefusal {
    /// The rule.
    pub rule: &'static str,
    /// The next step.
    pub hint: &'static str,
}

macro_rules! types {
    ($($name:ident $number:literal $meaning:literal)*) => {
        impl Rtype {
            $(
                #[doc = $meaning]
                pub const $name: Self = Self($number);
            )*
        }

        /// The mnemonics, by number.
        const MNEMONICS: &[(u16, &str)] = &[$(($number, stringify!($name))),*];
    };
}

types! {
    A 1 "An IPv4 address."
    NS 2 "A name server of the zone, or of a delegated one."
    MD 3 "A mail destination; obsolete."
    MF 4 "A mail forwarder; obsolete."
    CNAME 5 "The name is an alias."
    SOA 6 "The start of authority."
    MB 7 "A mailbox; experimental."
    MG 8 "A mail group member; experimental."
    MR 9 "A mail rename; experimental."
    PTR 12 "A pointer, as in reverse zones."
    HINFO 13 "Host information."
    MINFO 14 "Mail list information; experimental."
    MX 15 "A mail exchanger."
    TXT 16 "Text."
    RP 17 "A responsible person."
    AFSDB 18 "An AFS or DCE server."
    X25 19 "An X.25 address."
    RT 21 "An intermediate host."
    PX 26 "X.400 mail mapping."
    AAAA 28 "An IPv6 address."
    LOC 29 "A place on earth."
    SRV 33 "Where a service is."
    NAPTR 35 "A naming authority pointer."
    KX 36 "A key exchanger."
    CERT 37 "A certificate."
    DNAME 39 "Everything below the name is an alias."
    OPT 41 "A pseudo-record of EDNS."
    APL 42 "A list of address prefixes."
    DS 43 "The key of a delegated zone."
    SSHFP 44 "A fingerprint of an SSH host key."
    IPSECKEY 45 "A key for encrypted hosts."
    RRSIG 46 "A signature."
    NSEC 47 "What follows in a signed zone."
    DNSKEY 48 "A key that signs the zone."
    DHCID 49 "Who holds the name by DHCP."
    NSEC3 50 "What follows in a signed zone, hashed."
    NSEC3PARAM 51 "How the names are hashed."
    TLSA 52 "A certificate of a service."
    SMIMEA 53 "A certificate of a mail user."
    HIP 55 "A host identity."
    CDS 59 "A DS record that the parent shall take."
    CDNSKEY 60 "A key that the parent shall take."
    OPENPGPKEY 61 "A public key of a mail user."
    CSYNC 62 "What the parent shall take over."
    ZONEMD 63 "A digest of the zone."
    SVCB 64 "How to reach a service."
    HTTPS 65 "How to reach a web server."
    SPF 99 "Mail policy; obsolete, use TXT."
    NID 104 "A node identifier of ILNP."
    L32 105 "A 32-bit locator of ILNP."
    L64 106 "A 64-bit locator of ILNP."
    LP 107 "A locator pointer of ILNP."
    EUI48 108 "A 48-bit hardware address."
    EUI64 109 "A 64-bit hardware address."
    NXNAME 128 "In a proof: the name does not exist."
    TKEY 249 "A transaction key."
    TSIG 250 "A transaction signature."
    IXFR 251 "In a question: what has changed."
    AXFR 252 "In a question: the whole zone."
    MAILB 253 "In a question: all mailbox records."
    MAILA 254 "In a question: all mail agents."
    ANY 255 "In a question: whatever there is."
    URI 256 "A locator."
    CAA 257 "Who may issue certificates."
    RESINFO 261 "What a resolver can do."
    WALLET 262 "An address of a wallet."
}

impl Rtype {
    /// Why no zone may hold this type; none when it may.
    pub fn refusal(self) -> Option<TypeRefusal> {
        let (rule, hint) = match self {
            Self::RRSIG | Self::NSEC | Self::NSEC3 | Self::NSEC3PARAM | Self::DNSKEY => (
                "records of DNSSEC are made by the server that signs the zone, not written",
                "remove the record; take the zone from where it is not signed",
            ),
            Self::ZONEMD => (
                "a digest covers the serial (RFC 8976 2), which the service counts itself",
                "remove the record",
            ),
            Self(0 | 41 | 128..=255 | 65535) => (
                "the type exists in messages only and not in zones (RFC 6895 3.1)",
                "remove the record",
            ),
            _ => return None,
        };
        Some(TypeRefusal { rule, hint })
    }

    fn mnemonic(self) -> Option<&'static str> {
        let found = MNEMONICS.binary_search_by_key(&self.0, |(number, _)| *number);
        found.ok().map(|index| MNEMONICS[index].1)
    }
}

impl fmt::Display for Rtype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mnemonic() {
            Some(text) => out.pad(text),
            None => out.pad(&format!("TYPE{}", self.0)),
        }
    }
}

impl FromStr for Rtype {
    type Err = UnknownType;

    /// A mnemonic in any case, or `TYPE123` (RFC 3597 5).
    fn from_str(text: &str) -> Result<Self, UnknownType> {
        let known = MNEMONICS
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text));
        if let Some((number, _)) = known {
            return Ok(Self(*number));
        }
        let digits = match text.split_at_checked(4) {
            Some((word, digits)) if word.eq_ignore_ascii_case("TYPE") => digits,
            _ => return Err(UnknownType),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UnknownType);
        }
        digits.parse().map(Self).map_err(|_| UnknownType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_are_sorted_and_read_back() {
        assert!(MNEMONICS.is_sorted_by(|a, b| a.0 < b.0));
        for (number, name) in MNEMONICS {
            assert_eq!(name.to_lowercase().parse(), Ok(Rtype(*number)));
            assert_eq!(Rtype(*number).to_string(), *name);
            assert_eq!(format!("TYPE{number}").parse(), Ok(Rtype(*number)));
        }
    }

    #[test]
    fn other_types_are_written_with_their_number() {
        assert_eq!("type65280".parse(), Ok(Rtype(65280)));
        assert_eq!(Rtype(65280).to_string(), "TYPE65280");
        for text in ["TYPE", "TYPE65536", "TYPE+1", "TYPEX", "A1", "", "TY"] {
            assert_eq!(text.parse::<Rtype>(), Err(UnknownType), "{text}");
        }
    }

    #[test]
    fn types_of_messages_and_of_signers_are_refused() {
        for rtype in [Rtype::ANY, Rtype::OPT, Rtype(0), Rtype::RRSIG, Rtype::TSIG] {
            assert!(rtype.refusal().is_some(), "{rtype}");
        }
        for rtype in [Rtype::A, Rtype::DS, Rtype::CDS, Rtype(65280), Rtype::CAA] {
            assert!(rtype.refusal().is_none(), "{rtype}");
        }
    }
}
