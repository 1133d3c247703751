//! Arithmetic of serials.
//!
//! The group counts in 64 bits; on the wire a serial has 32, compared over half the ring (RFC 1982
//! 3.2). 0 is left out, because some servers take it for none.

/// The serials on the wire: 1 to 2^32-1.
const RING: u64 = (1 << 32) - 1;

/// The serial on the wire of what was counted; a count is at least 1.
pub fn on_wire(count: u64) -> u32 {
    let at = count.max(1).wrapping_sub(1) % RING;
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

/// The next count: one more, or that of `asked` when its serial is newer than the one now, by at
/// most 2^31-1 (RFC 1982 3.1), as an operator says who moves a zone here from another server.
/// Where nothing was counted yet, every serial is.
pub fn later(count: u64, asked: u32) -> u64 {
    // Of 0 nothing can be said: it is no serial of ours.
    if asked == 0 {
        return count + 1;
    }
    if count == 0 {
        return asked.into();
    }
    let now = on_wire(count);
    let ahead = asked.wrapping_sub(now);
    if ahead == 0 || ahead >= 1 << 31 {
        return count + 1;
    }
    // Over the end of the ring there is one place less, as 0 is left out.
    let over = u64::from(asked < now);
    count + u64::from(ahead) - over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_round_without_zero() {
        assert_eq!(on_wire(1), 1);
        assert_eq!(on_wire(u64::from(u32::MAX)), u32::MAX);
        assert_eq!(on_wire(1 << 32), 1);
        assert_eq!(on_wire(0), 1);
    }

    #[test]
    fn a_newer_serial_is_taken_over_and_an_older_one_is_not() {
        assert_eq!(later(1, 2_026_112_201), 2_026_112_201);
        assert_eq!(later(2_026_112_201, 2_026_112_201), 2_026_112_202);
        assert_eq!(later(2_026_112_201, 5), 2_026_112_202);
        assert_eq!(later(7, 0), 8);
        assert_eq!(later(7, 8), 8);
        assert_eq!(later(7, 9), 9);
        // Half the ring ahead says nothing, and more than that is behind.
        assert_eq!(later(7, 0x8000_0006), 0x8000_0006);
        assert_eq!(later(7, 0x8000_0007), 8);
        assert_eq!(later(7, 0x8000_0009), 8);
        assert_eq!(later(0, 0), 1);
        assert_eq!(later(0, 1), 1);
        assert_eq!(later(0, 3_000_000_000), 3_000_000_000);
        let end = u64::from(u32::MAX) - 1;
        assert_eq!(on_wire(later(end, 3)), 3);
        assert_eq!(later(end, 3), (1 << 32) + 2);
    }
}
