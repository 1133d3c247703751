//! What the data of each type consists of: the one table that reading, writing, checking and
//! comparing of records follow.
//!
//! A type that is not here is opaque: its data is written `\# LENGTH HEX` (RFC 3597 5).

use crate::rtype::Rtype;

/// One part of a record's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// An octet.
    U8,
    /// Two octets.
    U16,
    /// Four octets.
    U32,
    /// Four octets, seconds; text may have units.
    Seconds,
    /// Four octets, a moment: seconds since 1970 in serial arithmetic (RFC 4034 3.1.5).
    Time,
    /// Two octets, a type of records.
    Type,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A domain name.
    Name,
    /// A character string of at most 255 octets, with its length.
    String,
    /// One or more of them, to the end.
    Strings,
    /// Octets to the end, at least one, hexadecimal.
    Hex,
    /// Octets to the end, at least one, base64.
    Base64,
    /// The tag of a CAA record: letters and digits with their length (RFC 8659 4.1.1).
    Tag,
    /// Text to the end, without a length.
    Text,
    /// A bit map of types, to the end (RFC 4034 4.1.2).
    Types,
    /// Service parameters, to the end (RFC 9460 2.1).
    Params,
    /// Eight octets, in four groups between colons (RFC 6742 2.1.1).
    Locator,
    /// Octets of a hardware address, between hyphens (RFC 7043).
    Eui(usize),
    /// A place (RFC 1876).
    Location,
}

/// What is known of a type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Its parts.
    pub(crate) fields: &'static [Field],
    /// Names in it may be compressed in messages: the types of RFC 1035 only (RFC 3597 4).
    pub(crate) compress: bool,
    /// Names in it are compared in lower case (RFC 4034 6.2, RFC 6840 5.1).
    pub(crate) lower: bool,
}

/// The layout of a type, when it has one.
pub(crate) fn layout(rtype: Rtype) -> Option<Layout> {
    let fields = fields(rtype)?;
    let compress = matches!(
        rtype,
        Rtype::NS
            | Rtype::MD
            | Rtype::MF
            | Rtype::CNAME
            | Rtype::SOA
            | Rtype::MB
            | Rtype::MG
            | Rtype::MR
            | Rtype::PTR
            | Rtype::MINFO
            | Rtype::MX
    );
    let lower = compress
        || matches!(
            rtype,
            Rtype::RP
                | Rtype::AFSDB
                | Rtype::RT
                | Rtype::PX
                | Rtype::NAPTR
                | Rtype::KX
                | Rtype::SRV
                | Rtype::DNAME
        );
    Some(Layout {
        fields,
        compress,
        lower,
    })
}

/// How a record of the type is written, for messages.
pub(crate) fn form(rtype: Rtype) -> String {
    let mut form = rtype.to_string();
    let Some(layout) = layout(rtype) else {
        return form + " \\# LENGTH HEX";
    };
    for field in layout.fields {
        form.push(' ');
        form.push_str(match field {
            Field::U8 | Field::U16 | Field::U32 => "NUMBER",
            Field::Seconds => "SECONDS",
            Field::Time => "YYYYMMDDHHmmSS",
            Field::Type => "TYPE",
            Field::Ipv4 => "192.0.2.1",
            Field::Ipv6 => "2001:db8::1",
            Field::Name => "NAME",
            Field::String | Field::Text => "\"TEXT\"",
            Field::Strings => "\"TEXT\" ...",
            Field::Hex => "HEX",
            Field::Base64 => "BASE64",
            Field::Tag => "TAG",
            Field::Types => "TYPE ...",
            Field::Params => "KEY=VALUE ...",
            Field::Locator => "0000:0000:0000:0000",
            Field::Eui(_) => "00-00-...",
            Field::Location => "DEGREES MINUTES SECONDS N DEGREES MINUTES SECONDS E METRES",
        });
    }
    form
}

fn fields(rtype: Rtype) -> Option<&'static [Field]> {
    use Field::{
        Base64, Eui, Hex, Ipv4, Ipv6, Locator, Name, Params, Seconds, String, Strings, Tag, Text,
        Time, Type, Types, U8, U16, U32,
    };
    Some(match rtype {
        Rtype::A => &[Ipv4],
        Rtype::AAAA => &[Ipv6],
        Rtype::NS
        | Rtype::MD
        | Rtype::MF
        | Rtype::CNAME
        | Rtype::MB
        | Rtype::MG
        | Rtype::MR
        | Rtype::PTR
        | Rtype::DNAME => &[Name],
        Rtype::SOA => &[Name, Name, U32, Seconds, Seconds, Seconds, Seconds],
        Rtype::HINFO => &[String, String],
        Rtype::MINFO | Rtype::RP => &[Name, Name],
        Rtype::MX | Rtype::AFSDB | Rtype::RT | Rtype::KX | Rtype::LP => &[U16, Name],
        Rtype::PX => &[U16, Name, Name],
        Rtype::TXT | Rtype::SPF | Rtype::RESINFO | Rtype::WALLET => &[Strings],
        Rtype::X25 => &[String],
        Rtype::LOC => &[Field::Location],
        Rtype::SRV => &[U16, U16, U16, Name],
        Rtype::NAPTR => &[U16, U16, String, String, String, Name],
        Rtype::CERT => &[U16, U16, U8, Base64],
        Rtype::DS | Rtype::CDS => &[U16, U8, U8, Hex],
        Rtype::SSHFP => &[U8, U8, Hex],
        Rtype::TLSA | Rtype::SMIMEA => &[U8, U8, U8, Hex],
        Rtype::DNSKEY | Rtype::CDNSKEY => &[U16, U8, U8, Base64],
        Rtype::RRSIG => &[Type, U8, U8, U32, Time, Time, U16, Name, Base64],
        Rtype::NSEC => &[Name, Types],
        Rtype::DHCID | Rtype::OPENPGPKEY => &[Base64],
        Rtype::CSYNC => &[U32, U16, Types],
        Rtype::SVCB | Rtype::HTTPS => &[U16, Name, Params],
        Rtype::NID | Rtype::L64 => &[U16, Locator],
        Rtype::L32 => &[U16, Ipv4],
        Rtype::EUI48 => &[Eui(6)],
        Rtype::EUI64 => &[Eui(8)],
        Rtype::URI => &[U16, U16, Text],
        Rtype::CAA => &[U8, Tag, Text],
        _ => return None,
    })
}
