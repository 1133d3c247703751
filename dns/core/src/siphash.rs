//! SipHash-2-4 (Aumasson, Bernstein 2012): a hash under a secret key, which nobody without the key
//! can predict. Server cookies need exactly this one (RFC 9018 4.4), and the rate limit hashes
//! what strangers chose.
//!
//! Written here because it is thirty lines, has published vectors, and the crate that has it keeps
//! its input in a `Hasher`, which is free to feed lengths of its own.

/// The hash of `data` under `key`.
pub(crate) fn siphash24(key: &[u8; 16], data: &[u8]) -> u64 {
    let [k0, k1] = [&key[..8], &key[8..]].map(word);
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let whole = data.chunks_exact(8);
    let mut last = [0; 8];
    last[..whole.remainder().len()].copy_from_slice(whole.remainder());
    // The last word holds what is left and, on top, the length modulo 256.
    last[7] = data.len().to_le_bytes()[0];
    for block in whole.chain([&last[..]]) {
        let block = word(block);
        state[3] ^= block;
        round(&mut state);
        round(&mut state);
        state[0] ^= block;
    }
    state[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn word(octets: &[u8]) -> u64 {
    u64::from_le_bytes(octets.try_into().expect("eight octets"))
}

fn round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of the vectors that the authors publish, and the one of the paper's appendix A.
    #[test]
    fn hash_is_that_of_the_published_vectors() {
        let key: [u8; 16] = std::array::from_fn(|octet| u8::try_from(octet).expect("small"));
        let data: [u8; 15] = std::array::from_fn(|octet| u8::try_from(octet).expect("small"));
        assert_eq!(siphash24(&key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(&key, &data[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash24(&key, &data[..8]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash24(&key, &data), 0xa129_ca61_49be_45e5);
    }
}
