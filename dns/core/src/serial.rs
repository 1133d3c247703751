//! The order of serials, which are numbers on a ring (RFC 1982 3.2).

/// Whether `first` is an older serial than `second`. Of two that are opposite on the ring neither
/// is (RFC 1982 3.2 leaves that undefined), so that nobody takes one for a successor of the other.
pub fn is_before(first: u32, second: u32) -> bool {
    (1..1 << 31).contains(&second.wrapping_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1982 5.1 with 32 bits, and its 3.2.
    #[test]
    fn serials_are_ordered_on_a_ring() {
        for (first, second, expected) in [
            (0, 1, true),
            (1, 0, false),
            (7, 7, false),
            (0, 0x7fff_ffff, true),
            (0, 0x8000_0000, false),
            (0x8000_0000, 0, false),
            (u32::MAX, 0, true),
            (u32::MAX, 0x7fff_fffe, true),
            (0x8000_0000, 1, false),
            (0x8000_0001, 0, true),
        ] {
            assert_eq!(is_before(first, second), expected, "{first} {second}");
        }
    }
}
