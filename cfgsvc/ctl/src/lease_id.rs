//! Lease ids as people write them.

/// A lease id as it is printed: hexadecimal.
pub fn hex_lease(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text.trim_start_matches("0x"), 16)
        .ok()
        .filter(|id| *id >= 0)
        .ok_or_else(|| "a lease id is a hexadecimal number of at most 63 bits".to_owned())
}
