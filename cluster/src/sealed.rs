//! Small files that no database protects: each begins with the SHA-256 of what follows.
//!
//! Why: what decodes is not yet what was written. A flipped bit in an identity may name another
//! member, and one in a snapshot's manifest another membership.

use std::io;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

const HASH_BYTES: usize = 32;

/// What to do about a data directory that cannot be trusted any more.
pub(crate) const REPLACE: &str = "keep the directory for analysis and replace the member: `cfgctl \
     member remove NAME`, then start it on an empty data directory with `--join`";

/// What to write for `content`.
pub(crate) fn seal(content: &[u8]) -> Vec<u8> {
    let mut sealed = Sha256::digest(content).to_vec();
    sealed.extend_from_slice(content);
    sealed
}

/// The content of what was read from `path`, when it is what was written.
pub(crate) fn unseal(path: &Path, sealed: Vec<u8>) -> io::Result<Bytes> {
    let sealed = Bytes::from(sealed);
    match sealed.split_at_checked(HASH_BYTES) {
        Some((hash, content)) if *Sha256::digest(content) == *hash => {
            Ok(sealed.slice(HASH_BYTES..))
        }
        Some(_) | None => Err(damaged(path, "it does not match its checksum")),
    }
}

/// A file of the data directory that is not what was written.
pub(crate) fn damaged(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} is damaged: {why}: {REPLACE}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = seal(b"content");
        let path = Path::new("some/file");
        assert_eq!(
            unseal(path, sealed.clone()).ok().as_deref(),
            Some(&b"content"[..])
        );
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(path, flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            let error = unseal(path, sealed[..length].to_vec()).expect_err("it is cut");
            assert!(
                error.to_string().starts_with("some/file is damaged"),
                "{error}"
            );
        }
    }
}
