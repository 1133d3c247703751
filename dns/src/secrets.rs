//! Secrets from files, which are read at the start and again on SIGHUP.

use std::path::{Path, PathBuf};

use cfgdns_core::{CookieSecrets, KEY_FILE_OCTETS_MAX, KeyFileError, TsigKeys, parse_keys};
use cfgdns_sign::{PrivateKey, read_private};
use cfgdns_zone::Name;
use zeroize::Zeroizing;

/// Octets of a file with a private key of a zone: those of BIND have some hundred.
const ZONE_KEY_OCTETS_MAX: usize = 4_096;
/// Private keys of zones in a directory: two for each of ten thousand zones, while they change.
const ZONE_KEYS_MAX: usize = 20_000;

/// Why there is no secret. What the file says is not in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    /// It is larger than such a file can be meant to be.
    #[error("{} has more than {octets_max} octets", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The most.
        octets_max: usize,
    },
    /// It is no file of keys.
    #[error("{}", file.display())]
    Keys {
        /// The file.
        file: PathBuf,
        /// Why.
        source: KeyFileError,
    },
    /// It is no private key of a zone.
    #[error("{}", file.display())]
    ZoneKey {
        /// The file.
        file: PathBuf,
        /// Why.
        source: cfgdns_sign::KeyFileError,
    },
    /// More keys than a server can be meant to have.
    #[error("{} has more than {ZONE_KEYS_MAX} private keys", dir.display())]
    TooManyKeys {
        /// The directory.
        dir: PathBuf,
    },
    /// A key is named, and not there.
    #[error("there is no key {0} in the file of --key-file")]
    NoKey(Name),
    /// It is no file of cookie secrets.
    #[error(
        "{} line {line}: not 32 hexadecimal digits; make one with: openssl rand -hex 16",
        file.display()
    )]
    Form {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// It has no secret, or more than two.
    #[error("{} has {found} secrets, allowed: 1, or 2 while they change", file.display())]
    Count {
        /// The file.
        file: PathBuf,
        /// How many it has.
        found: usize,
    },
}

/// The secrets of cookies from a file.
pub fn cookies(file: &Path) -> Result<CookieSecrets, SecretError> {
    let text = read(file, KEY_FILE_OCTETS_MAX)?;
    parse(file, &text)
}

/// The keys for TSIG from a file.
pub fn keys(file: &Path) -> Result<TsigKeys, SecretError> {
    let text = read(file, KEY_FILE_OCTETS_MAX)?;
    parse_keys(&text).map_err(|source| SecretError::Keys {
        file: file.into(),
        source,
    })
}

/// The private keys of zones in a directory.
pub fn zone_keys(dir: &Path) -> Result<Vec<PrivateKey>, SecretError> {
    let mut keys = Vec::new();
    for entry in fs_err::read_dir(dir).map_err(SecretError::Read)? {
        let file = entry.map_err(SecretError::Read)?.path();
        if file.extension().is_none_or(|found| found != "private") {
            continue;
        }
        if keys.len() == ZONE_KEYS_MAX {
            return Err(SecretError::TooManyKeys { dir: dir.into() });
        }
        let text = read(&file, ZONE_KEY_OCTETS_MAX)?;
        keys.push(read_private(&text).map_err(|source| SecretError::ZoneKey { file, source })?);
    }
    Ok(keys)
}

/// The text of a file, which is wiped when it is dropped.
fn read(file: &Path, octets_max: usize) -> Result<Zeroizing<String>, SecretError> {
    use std::io::Read;
    // As long as it can be, so that no part of it is left behind when it grows; one octet more
    // shows that there is more.
    let limit = octets_max + 1;
    let mut text = Zeroizing::new(String::with_capacity(limit));
    let opened = fs_err::File::open(file).map_err(SecretError::Read)?;
    let read = opened.take(limit as u64).read_to_string(&mut text);
    if read.map_err(SecretError::Read)? > octets_max {
        let file = file.into();
        return Err(SecretError::TooLarge { file, octets_max });
    }
    Ok(text)
}

fn parse(file: &Path, text: &str) -> Result<CookieSecrets, SecretError> {
    let mut secrets = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let secret = secret(text).ok_or_else(|| SecretError::Form {
            file: file.into(),
            line,
        })?;
        secrets.push(secret);
    }
    match secrets[..] {
        [current] => Ok(CookieSecrets {
            current,
            other: None,
        }),
        [current, other] => Ok(CookieSecrets {
            current,
            other: Some(other),
        }),
        _ => Err(SecretError::Count {
            file: file.into(),
            found: secrets.len(),
        }),
    }
}

fn secret(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_wiped_whole_and_has_a_limit() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("Kexample.+015+00001.private");
        let text = "x".repeat(ZONE_KEY_OCTETS_MAX);
        fs_err::write(&file, &text).expect("a file");
        let found = read(&file, ZONE_KEY_OCTETS_MAX).expect("it is small enough");
        assert_eq!(*found, text);
        let (capacity, limit) = (found.capacity(), ZONE_KEY_OCTETS_MAX + 1);
        assert_eq!(capacity, limit, "it grew, and left the secret behind");
        fs_err::write(&file, format!("{text}x")).expect("a file");
        let error = zone_keys(dir.path()).expect_err("it is too large");
        let expected = format!("{} has more than 4096 octets", file.display());
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn one_secret_or_two_and_nothing_of_them_in_an_error() {
        let file = Path::new("cookies");
        let first = "000102030405060708090a0b0c0d0e0f";
        let read = |text: &str| parse(file, text).map_err(|error| error.to_string());
        let secrets = read(&format!("# made today\n{first}\n\n  FF{}\n", &first[2..]));
        let secrets = secrets.expect("two secrets");
        assert_eq!(secrets.current[..3], [0, 1, 2]);
        assert_eq!(secrets.other.map(|secret| secret[0]), Some(255));
        for (text, why) in [
            (
                String::new(),
                "cookies has 0 secrets, allowed: 1, or 2 while they change",
            ),
            (
                format!("{first}\n").repeat(3),
                "cookies has 3 secrets, allowed: 1, or 2 while they change",
            ),
            (
                format!("{first}\n+{}", &first[1..]),
                "cookies line 2: not 32 hexadecimal digits; make one with: openssl rand -hex 16",
            ),
        ] {
            assert_eq!(read(&text).expect_err("refused"), why);
        }
    }
}
