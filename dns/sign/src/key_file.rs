//! Keys as files, in the form of BIND's `dnssec-keygen`: `K<zone>+<algorithm>+<tag>.private` has
//! the secret, and the same with `.key` the public record. Every other tool of DNSSEC reads them
//! too.

use std::fmt::Write as _;

use cfgdns_zone::{Name, NameError, Rdata, RdataError, Rtype, base64_decode, base64_encode};
use zeroize::{Zeroize as _, Zeroizing};

use crate::dnskey::{Dnskey, DnskeyError};
use crate::key::{Algorithm, PrivateKey, SECRET_OCTETS, UnusableSecret};

/// A public key and the zone that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The zone.
    pub zone: Name,
    /// The key.
    pub dnskey: Dnskey,
}

/// Why a file holds no key. No text of this shows a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Something that every private key has.
    #[error("there is no line `{0}:`")]
    Missing(&'static str),
    /// A line is there again.
    #[error("there is another line `{0}:`")]
    Twice(&'static str),
    /// Another form.
    #[error("line {0} is not `NAME: VALUE`")]
    Line(usize),
    /// Another version of the form, which would be read wrongly.
    #[error(
        "Private-key-format is {0}, not v1.2 or v1.3: make a key with `cfgctl zone key generate`, \
         or with dnssec-keygen"
    )]
    Format(String),
    /// Another algorithm.
    #[error(
        "Algorithm is {0}, not 13 (ECDSAP256SHA256) or 15 (ED25519): make a key of one of these \
         with `cfgctl zone key generate`, and change the algorithm of the zone to it"
    )]
    Algorithm(String),
    /// No base64.
    #[error("PrivateKey is no base64: copy the file again from where the key was made")]
    Base64,
    /// No 32 octets.
    #[error(
        "PrivateKey has {0} octets, not {SECRET_OCTETS}: copy the file again from where the key \
         was made"
    )]
    Secret(usize),
    /// No secret of the algorithm.
    #[error(transparent)]
    Unusable(#[from] UnusableSecret),
    /// The name of the zone.
    #[error("the name of the zone is none")]
    Zone(#[source] NameError),
    /// Not one record.
    #[error("there is not one record `NAME [TTL] [IN] DNSKEY FLAGS 3 ALGORITHM BASE64`")]
    NotOneRecord,
    /// Its data.
    #[error("the data of the record are not valid")]
    Data(#[source] RdataError),
    /// The key.
    #[error(transparent)]
    Key(#[from] DnskeyError),
}

/// What a file says of itself, where it can be no secret that stands in a wrong line: a number or a
/// version.
fn shown(value: &str) -> String {
    let plain = |sign: char| sign.is_ascii_digit() || matches!(sign, 'v' | '.');
    if value.len() <= 8 && value.chars().all(plain) {
        value.to_owned()
    } else {
        "something else".to_owned()
    }
}

/// The name of both files of a key without what follows the dot, as BIND writes it.
pub fn file_stem(zone: &Name, dnskey: &Dnskey) -> String {
    let mut stem = "K".to_owned();
    for label in zone.labels() {
        for octet in label {
            let octet = octet.to_ascii_lowercase();
            match octet {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => stem.push(char::from(octet)),
                _ => write!(stem, "%{octet:02X}").expect("a string takes everything"),
            }
        }
        stem.push('.');
    }
    if zone.is_root() {
        stem.push('.');
    }
    let (algorithm, tag) = (dnskey.algorithm().number(), dnskey.key_tag());
    write!(stem, "+{algorithm:03}+{tag:05}").expect("a string takes everything");
    stem
}

/// The text of a private key; it wipes itself.
pub fn write_private(key: &PrivateKey) -> Zeroizing<String> {
    let mut secret = base64_encode(&*key.secret());
    let algorithm = key.algorithm();
    // As long as it will be, so that no part of it is left behind when it grows.
    let mut text = Zeroizing::new(String::with_capacity(200));
    let head = "Private-key-format: v1.3\nAlgorithm:";
    let (number, name) = (algorithm.number(), algorithm.mnemonic());
    let written = write!(*text, "{head} {number} ({name})\nPrivateKey: {secret}\n");
    written.expect("a string takes everything");
    secret.zeroize();
    text
}

/// Reads such a text. What else the file says (when the key is to be used, say) is for whoever
/// decides that.
pub fn read_private(text: &str) -> Result<PrivateKey, KeyFileError> {
    let (mut format, mut algorithm, mut secret) = (None, None, None);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (field, value) = line.split_once(':').ok_or(KeyFileError::Line(number))?;
        let (place, name) = match field.trim() {
            "Private-key-format" => (&mut format, "Private-key-format"),
            "Algorithm" => (&mut algorithm, "Algorithm"),
            "PrivateKey" => (&mut secret, "PrivateKey"),
            _ => continue,
        };
        if place.replace(value.trim()).is_some() {
            return Err(KeyFileError::Twice(name));
        }
    }
    let missing = KeyFileError::Missing;
    let format = format.ok_or(missing("Private-key-format"))?;
    if !["v1.2", "v1.3"].contains(&format) {
        return Err(KeyFileError::Format(shown(format)));
    }
    // The name in parentheses is for people.
    let named = algorithm.ok_or(missing("Algorithm"))?;
    let first = named.split_whitespace().next().unwrap_or_default();
    let algorithm = first.parse().ok().and_then(Algorithm::from_number);
    let algorithm = algorithm.ok_or_else(|| KeyFileError::Algorithm(shown(first)))?;
    let secret = secret.ok_or(missing("PrivateKey"))?;
    let octets = base64_decode(secret.as_bytes()).map(Zeroizing::new);
    let octets = octets.ok_or(KeyFileError::Base64)?;
    let missing = SECRET_OCTETS.checked_sub(octets.len());
    // The secret of P-256 is a number, and BIND leaves zeros at its beginning out.
    let missing = missing.filter(|missing| *missing == 0 || algorithm.secret_is_number());
    let mut secret = Zeroizing::new([0; SECRET_OCTETS]);
    secret[missing.ok_or(KeyFileError::Secret(octets.len()))?..].copy_from_slice(&octets);
    Ok(PrivateKey::from_secret(algorithm, &secret)?)
}

/// The text of a public key: its record, as master files have it.
pub fn write_public(key: &PublicKey) -> String {
    let PublicKey { zone, dnskey } = key;
    let kind = if dnskey.is_secure_entry() {
        "key"
    } else {
        "zone"
    };
    let (tag, data) = (dnskey.key_tag(), dnskey.to_data().text(Rtype::DNSKEY, None));
    format!("; This is a {kind}-signing key, keyid {tag}, for {zone}\n{zone} IN DNSKEY {data}\n")
}

/// Reads such a text: one record, with or without a TTL, a class and comments.
pub fn read_public(text: &str) -> Result<PublicKey, KeyFileError> {
    let lines = text.lines().map(without_comment);
    let lines: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    let text = lines.join("\n");
    let mut words = text.split_whitespace();
    let zone = words.next().ok_or(KeyFileError::NotOneRecord)?;
    let zone = Name::parse(zone.as_bytes(), None).map_err(KeyFileError::Zone)?;
    let is_meta = |word: &&str| {
        word.eq_ignore_ascii_case("IN") || word.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut rest = words.skip_while(is_meta);
    if !rest
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("DNSKEY"))
    {
        return Err(KeyFileError::NotOneRecord);
    }
    let data = rest.collect::<Vec<_>>().join(" ");
    let data = Rdata::parse(Rtype::DNSKEY, &data, None).map_err(KeyFileError::Data)?;
    let dnskey = Dnskey::from_data(&data)?;
    Ok(PublicKey { zone, dnskey })
}

/// A line up to its comment; in a name the sign that begins one can be escaped (RFC 1035 5.1).
fn without_comment(line: &str) -> &str {
    let mut escaped = false;
    let end = line.bytes().position(|byte| {
        let begins = byte == b';' && !escaped;
        escaped = byte == b'\\' && !escaped;
        begins
    });
    end.map_or(line, |end| &line[..end])
}
