//! Files of keys: private and public keys of zones, as BIND's tools write them, and keys of TSIG.
//!
//! - a file is refused, or its key is written as one that reads back the same;
//! - what is said of a file that is refused, and what is shown of keys, has none of the words that
//!   may be the secret.

use cfgdns_core::{KeyFileError, parse_keys};
use cfgdns_sign::{file_stem, read_private, read_public, write_private, write_public};

/// Letters of the shortest word that may be a secret: 16 octets have 22, and no word of ours has
/// as many.
const SECRET_LETTERS_MIN: usize = 22;

/// A file; the first octet says of which kind.
pub(crate) fn key_file(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    match kind % 3 {
        0 => private(&text),
        1 => public(&text),
        _ => tsig(&text),
    }
}

fn private(text: &str) {
    match read_private(text) {
        Ok(key) => {
            let written = write_private(&key);
            let again = read_private(&written).expect("what is written is a key");
            assert_eq!(again.algorithm(), key.algorithm());
            assert_eq!(again.public(), key.public());
            assert_eq!(*write_private(&again), *written);
            assert_tells_nothing(text, &format!("{key:?}"));
        }
        Err(error) => assert_tells_nothing(text, &format!("{error} {error:?}")),
    }
}

fn public(text: &str) {
    let Ok(key) = read_public(text) else {
        return;
    };
    let again = read_public(&write_public(&key));
    assert_eq!(again.as_ref(), Ok(&key));
    // It is the name of a file, in whatever directory.
    let stem = file_stem(&key.zone, &key.dnskey);
    let plain = |sign: char| sign.is_ascii_alphanumeric() || "+-_.%".contains(sign);
    assert!(stem.starts_with('K') && stem.chars().all(plain), "{stem}");
}

fn tsig(text: &str) {
    match parse_keys(text) {
        Ok(keys) => {
            let commented = format!("# a comment\n{text}\n// another");
            let again = parse_keys(&commented).expect("comments change nothing");
            assert_eq!(format!("{again:?}"), format!("{keys:?}"));
        }
        // Both have the same name, which may be any word.
        Err(KeyFileError::Twice(_)) => {}
        Err(error) => assert_tells_nothing(text, &format!("{error} {error:?}")),
    }
}

/// No word of the file that may be its secret is in what is said of it.
fn assert_tells_nothing(text: &str, said: &str) {
    let separates = |sign: char| sign.is_whitespace() || "{};\":".contains(sign);
    let words = text.split(separates);
    let mut long = words.filter(|word| word.len() >= SECRET_LETTERS_MIN);
    assert!(
        !long.any(|word| said.contains(word)),
        "a word of the file: {said}"
    );
}
