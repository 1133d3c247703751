//! Cookies that show that a client gets what is sent to its address (RFC 7873), in the form that
//! servers behind one address share (RFC 9018): who holds the secret can check it, and nothing is
//! kept for each client.
//!
//! ```text
//! client cookie 8 │ version 1 │ reserved 3 │ time 4 │ hash 8      octets of the option
//!                 └────────── server cookie ───────┴─ SipHash-2-4 of all before it and the address
//! ```

use core::net::IpAddr;

use zeroize::Zeroize as _;

use crate::siphash::siphash24;

/// Octets of a client's cookie (RFC 7873 4.1).
pub(crate) const CLIENT_OCTETS: usize = 8;
/// Octets of the option with a server cookie of this form.
pub(crate) const COOKIE_OCTETS: usize = 24;
/// For how long a server cookie is good, in seconds (RFC 9018 4.3).
const PAST_SECONDS: u32 = 3_600;
/// How far the clock of another server may be ahead, in seconds (RFC 9018 4.3).
const AHEAD_SECONDS: u32 = 300;
const VERSION: u8 = 1;

/// The keys of server cookies: all servers that share an address share them.
#[derive(Clone)]
pub struct CookieSecrets {
    /// Makes cookies, and checks them.
    pub current: [u8; 16],
    /// Checks those that were made before the secret was changed, or after it (RFC 9018 5).
    pub other: Option<[u8; 16]>,
}

impl Drop for CookieSecrets {
    /// Wipes them.
    fn drop(&mut self) {
        self.current.zeroize();
        self.other.zeroize();
    }
}

impl std::fmt::Debug for CookieSecrets {
    /// Says that they are there, and not what they are.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("CookieSecrets(..)")
    }
}

impl CookieSecrets {
    /// The option for a reply: the client's cookie and one of the server's.
    pub(crate) fn make(&self, client_cookie: [u8; 8], client: IpAddr, now: u64) -> [u8; 24] {
        let mut cookie = [0; COOKIE_OCTETS];
        cookie[..8].copy_from_slice(&client_cookie);
        cookie[8] = VERSION;
        cookie[12..16].copy_from_slice(&seconds(now).to_be_bytes());
        let hash = hash(&self.current, &cookie[..16], client);
        cookie[16..].copy_from_slice(&hash);
        cookie
    }

    /// Whether the client has got a cookie of ours at its address.
    pub(crate) fn is_ours(&self, option: &[u8], client: IpAddr, now: u64) -> bool {
        let Ok(cookie) = <&[u8; COOKIE_OCTETS]>::try_from(option) else {
            return false;
        };
        let [.., t0, t1, t2, t3] = cookie[..16] else {
            return false;
        };
        // Sequence numbers, not seconds since an epoch: they start anew in 2106 (RFC 1982).
        let age = seconds(now).wrapping_sub(u32::from_be_bytes([t0, t1, t2, t3]));
        let in_time = age <= PAST_SECONDS || age.wrapping_neg() <= AHEAD_SECONDS;
        if cookie[8] != VERSION || !in_time {
            return false;
        }
        let secrets = [Some(&self.current), self.other.as_ref()];
        secrets.into_iter().flatten().any(|secret| {
            let hash = hash(secret, &cookie[..16], client);
            // All octets are looked at: how long it takes says nothing about how many are right.
            let differing = hash.iter().zip(&cookie[16..]).map(|(a, b)| a ^ b);
            differing.fold(0, |all, octet| all | octet) == 0
        })
    }
}

fn seconds(now: u64) -> u32 {
    u32::try_from(now & u64::from(u32::MAX)).expect("32 bits")
}

fn hash(secret: &[u8; 16], cookie: &[u8], client: IpAddr) -> [u8; 8] {
    let mut input = [0; 32];
    input[..16].copy_from_slice(cookie);
    let octets = match client {
        IpAddr::V4(address) => {
            input[16..20].copy_from_slice(&address.octets());
            20
        }
        IpAddr::V6(address) => {
            input[16..].copy_from_slice(&address.octets());
            32
        }
    };
    siphash24(secret, &input[..octets]).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: u128 = 0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf;

    fn secrets(current: u128, other: Option<u128>) -> CookieSecrets {
        CookieSecrets {
            current: current.to_be_bytes(),
            other: other.map(u128::to_be_bytes),
        }
    }

    fn cookie(client: u64, server: u128) -> [u8; 24] {
        let mut option = [0; 24];
        option[..8].copy_from_slice(&client.to_be_bytes());
        option[8..].copy_from_slice(&server.to_be_bytes());
        option
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// RFC 9018 A.1 and A.2.
    #[test]
    fn first_cookie_is_learnt_and_renewed_after_forty_minutes() {
        let secrets = secrets(SECRET, None);
        let client = address("198.51.100.100");
        let ours = 0x2464_c4ab_cf10_c957_u64;
        let first = cookie(ours, 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480);
        let made = secrets.make(ours.to_be_bytes(), client, 1_559_731_985);
        assert_eq!(made, first);
        assert!(secrets.is_ours(&first, client, 1_559_734_385));
        let second = cookie(ours, 0x0100_0000_5cf7_a871_d4a5_64a1_442a_ca77);
        let made = secrets.make(ours.to_be_bytes(), client, 1_559_734_385);
        assert_eq!(made, second);
    }

    /// RFC 9018 A.3: reserved octets are hashed as they came. By the times of the vector the cookie
    /// is 6,715 seconds old when it is used, more than the hour of section 4.3.
    #[test]
    fn reserved_octets_of_others_are_taken_and_not_made() {
        let secrets = secrets(SECRET, None);
        let client = address("203.0.113.203");
        let theirs = 0xfc93_fc62_807d_db86_u64;
        let sent = cookie(theirs, 0x01ab_cdef_5cf7_8f71_a314_227b_6679_ebf5);
        assert!(secrets.is_ours(&sent, client, 1_559_727_985));
        assert!(!secrets.is_ours(&sent, client, 1_559_734_700));
        let made = secrets.make(theirs.to_be_bytes(), client, 1_559_734_700);
        let expected = cookie(theirs, 0x0100_0000_5cf7_a9ac_f73a_7810_aca2_381e);
        assert_eq!(made, expected);
    }

    /// RFC 9018 A.4.
    #[test]
    fn cookie_of_the_secret_before_is_taken_and_renewed_with_the_new() {
        let new = 0x4455_36bc_d251_3298_075a_5d37_9663_c962;
        let old = 0xdd3b_df93_44b6_78b1_85a6_f5cb_60fc_a715;
        let client = address("2001:db8:220:1:59de:d0f4:8769:82b8");
        let theirs = 0x2268_1ab9_7d52_c298_u64;
        let sent = cookie(theirs, 0x0100_0000_5cf7_c579_2655_6bd0_934c_72f8);
        assert!(secrets(new, Some(old)).is_ours(&sent, client, 1_559_741_961));
        assert!(!secrets(new, None).is_ours(&sent, client, 1_559_741_961));
        let made = secrets(new, Some(old)).make(theirs.to_be_bytes(), client, 1_559_741_961);
        let expected = cookie(theirs, 0x0100_0000_5cf7_c609_a6bb_79d1_6625_507a);
        assert_eq!(made, expected);
    }

    /// RFC 9018 4.3: one hour back and five minutes ahead; also where the seconds start anew.
    #[test]
    fn cookie_is_good_for_its_time_only() {
        let secrets = secrets(SECRET, None);
        let client = address("192.0.2.1");
        for made_at in [1_559_731_985, u64::from(u32::MAX) - 10] {
            let cookie = secrets.make([7; 8], client, made_at);
            for (later, expected) in [(0, true), (3_600, true), (3_601, false)] {
                assert_eq!(secrets.is_ours(&cookie, client, made_at + later), expected);
            }
            for (sooner, expected) in [(300, true), (301, false)] {
                assert_eq!(secrets.is_ours(&cookie, client, made_at - sooner), expected);
            }
        }
    }

    #[test]
    fn cookie_with_any_bit_changed_or_from_elsewhere_is_not_ours() {
        let secrets = secrets(SECRET, None);
        let client = address("192.0.2.1");
        let good = secrets.make([7; 8], client, 1_000_000);
        assert!(secrets.is_ours(&good, client, 1_000_000));
        assert!(!secrets.is_ours(&good, address("192.0.2.2"), 1_000_000));
        assert!(!secrets.is_ours(&good[..16], client, 1_000_000));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!secrets.is_ours(&bad, client, 1_000_000), "bit {bit}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", secrets(SECRET, None));
        assert_eq!(text, "CookieSecrets(..)");
    }
}
