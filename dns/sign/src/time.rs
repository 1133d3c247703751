//! Times in signatures: seconds since 1970 in four octets, which begin again in 2106 and are
//! therefore compared over half of the ring (RFC 4034 3.1.5, RFC 1982 3.2).

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Time(pub u32);

impl Time {
    /// The moment so many seconds after 1970.
    pub fn from_unix(seconds: u64) -> Self {
        let [_, _, _, _, a, b, c, d] = seconds.to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether it comes after another. Of two that are half the ring apart neither does.
    pub fn is_after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0);
        (1..1 << 31).contains(&ahead)
    }
}

/// From when to when a signature may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Validity {
    inception: Time,
    expiration: Time,
}

/// The end is not after the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "signatures would end at {expiration:?}, which is not after their beginning at {inception:?}"
)]
pub struct ValidityError {
    /// The beginning.
    pub inception: Time,
    /// The end.
    pub expiration: Time,
}

impl Validity {
    /// From `inception` to `expiration`, both included.
    pub fn new(inception: Time, expiration: Time) -> Result<Self, ValidityError> {
        if !expiration.is_after(inception) {
            return Err(ValidityError {
                inception,
                expiration,
            });
        }
        Ok(Self {
            inception,
            expiration,
        })
    }

    /// The beginning.
    pub fn inception(self) -> Time {
        self.inception
    }

    /// The end.
    pub fn expiration(self) -> Time {
        self.expiration
    }

    /// For how many seconds it may still be believed; 0 when it has ended.
    pub fn left(self, now: Time) -> u32 {
        if now.is_after(self.expiration) {
            return 0;
        }
        self.expiration.0.wrapping_sub(now.0)
    }

    /// Whether no more than a quarter of the time is left: it should have been signed anew by now.
    pub fn is_late(self, now: Time) -> bool {
        let whole = self.expiration.0.wrapping_sub(self.inception.0);
        self.left(now) <= whole / 4
    }

    /// Whether a signature may be believed at this moment.
    pub fn covers(self, now: Time) -> bool {
        !self.inception.is_after(now) && !now.is_after(self.expiration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1982 3.2, and the example of RFC 4034 3.1.5: a signature may go over the end of the ring.
    #[test]
    fn times_are_compared_over_half_of_the_ring() {
        assert!(Time(1).is_after(Time(0)) && !Time(0).is_after(Time(0)));
        assert!(Time(0).is_after(Time(u32::MAX)) && !Time(u32::MAX).is_after(Time(0)));
        assert!(Time(0x7fff_ffff).is_after(Time(0)));
        let half = (Time(0x8000_0000), Time(0));
        assert!(!half.0.is_after(half.1) && !half.1.is_after(half.0));
        assert_eq!(Time::from_unix((1 << 32) + 7), Time(7));
    }

    #[test]
    fn validity_has_its_ends_and_goes_over_the_end_of_the_ring() {
        let validity = Validity::new(Time(u32::MAX - 9), Time(10)).expect("twenty seconds");
        for (now, covered) in [
            (u32::MAX - 10, false),
            (u32::MAX - 9, true),
            (u32::MAX, true),
            (0, true),
            (10, true),
            (11, false),
        ] {
            assert_eq!(validity.covers(Time(now)), covered, "{now}");
        }
        let left = |now: u32| (validity.left(Time(now)), validity.is_late(Time(now)));
        for (now, expected) in [
            (u32::MAX - 9, (20, false)),
            (4, (6, false)),
            (5, (5, true)),
            (10, (0, true)),
            (11, (0, true)),
        ] {
            assert_eq!(left(now), expected, "{now}");
        }
        for (inception, expiration) in [(5, 5), (6, 5), (0, 1 << 31)] {
            let (inception, expiration) = (Time(inception), Time(expiration));
            let error = ValidityError {
                inception,
                expiration,
            };
            assert_eq!(Validity::new(inception, expiration), Err(error));
        }
    }
}
