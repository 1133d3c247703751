//! How keys and values are written as octets, so that octets compare as what they stand for.
//!
//! Sorting, merging and grouping compare octets and never decode: a key's encoding must order as
//! the key does, and be the same for equal keys. Integers are big-endian (signed ones with the sign
//! turned over), so are floats in their total order; a pair escapes its first half, as a prefix
//! would otherwise decide what the second half should.

use std::borrow::Cow;
use std::marker::PhantomData;

/// What octets are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer or more than the type has.
    #[error("{found} octets are no {expected}")]
    Length {
        /// The type.
        expected: &'static str,
        /// Octets there are.
        found: usize,
    },
    /// Not UTF-8.
    #[error("the text is not UTF-8 after {valid} octets")]
    Utf8 {
        /// Octets that are.
        valid: usize,
    },
    /// The first half of a pair does not end.
    #[error("the first half of a pair of {found} octets does not end")]
    Pair {
        /// Octets there are.
        found: usize,
    },
}

/// A type of keys or values.
pub trait Codec: 'static {
    /// As functions of a job see it.
    type Ref<'a>;
    /// It holds nothing, so that a text output has no field for it.
    const IS_NOTHING: bool = false;

    /// Appends its octets.
    fn encode(value: Self::Ref<'_>, to: &mut Vec<u8>);

    /// What the octets stand for.
    fn decode(octets: &[u8]) -> Result<Self::Ref<'_>, CodecError>;

    /// Appends it as a person reads it, which is how text outputs have it.
    fn text(value: Self::Ref<'_>, to: &mut Vec<u8>);

    /// Its octets, for as long as `with` runs. A type that is its octets copies nothing.
    fn with<T>(value: Self::Ref<'_>, scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> T) -> T {
        scratch.clear();
        Self::encode(value, scratch);
        with(scratch)
    }
}

/// Any octets.
#[derive(Debug)]
pub enum Bytes {}

impl Codec for Bytes {
    type Ref<'a> = &'a [u8];

    fn encode(value: &[u8], to: &mut Vec<u8>) {
        to.extend_from_slice(value);
    }

    fn decode(octets: &[u8]) -> Result<&[u8], CodecError> {
        Ok(octets)
    }

    fn text(value: &[u8], to: &mut Vec<u8>) {
        to.extend_from_slice(value);
    }

    fn with<T>(value: &[u8], _scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> T) -> T {
        with(value)
    }
}

/// Text in UTF-8.
#[derive(Debug)]
pub enum Text {}

impl Codec for Text {
    type Ref<'a> = &'a str;

    fn encode(value: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(value.as_bytes());
    }

    fn decode(octets: &[u8]) -> Result<&str, CodecError> {
        std::str::from_utf8(octets).map_err(|error| CodecError::Utf8 {
            valid: error.valid_up_to(),
        })
    }

    fn text(value: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(value.as_bytes());
    }

    fn with<T>(value: &str, _scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> T) -> T {
        with(value.as_bytes())
    }
}

/// Nothing: the value of a key that needs none.
#[derive(Debug)]
pub enum Unit {}

impl Codec for Unit {
    type Ref<'a> = ();
    const IS_NOTHING: bool = true;

    fn encode((): (), _to: &mut Vec<u8>) {}

    fn decode(octets: &[u8]) -> Result<(), CodecError> {
        let found = octets.len();
        let expected = "nothing";
        if found == 0 {
            Ok(())
        } else {
            Err(CodecError::Length { expected, found })
        }
    }

    fn text((): (), _to: &mut Vec<u8>) {}
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $type:ty, $bits:ty, $to:expr, $from:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Codec for $name {
            type Ref<'a> = $type;

            fn encode(value: $type, to: &mut Vec<u8>) {
                let to_bits: fn($type) -> $bits = $to;
                to.extend_from_slice(&to_bits(value).to_be_bytes());
            }

            fn decode(octets: &[u8]) -> Result<$type, CodecError> {
                let from_bits: fn($bits) -> $type = $from;
                let octets = octets.try_into().map_err(|_| CodecError::Length {
                    expected: stringify!($name),
                    found: octets.len(),
                })?;
                Ok(from_bits(<$bits>::from_be_bytes(octets)))
            }

            fn text(value: $type, to: &mut Vec<u8>) {
                to.extend_from_slice(value.to_string().as_bytes());
            }
        }
    };
}

const SIGN_32: u32 = 1 << 31;
const SIGN_64: u64 = 1 << 63;

number!(
    /// 32 bits.
    U32, u32, u32, |value| value, |bits| bits
);
number!(
    /// 64 bits.
    U64, u64, u64, |value| value, |bits| bits
);
number!(
    /// 32 bits with a sign.
    I32, i32, u32, |value| value.cast_unsigned() ^ SIGN_32, |bits| (bits ^ SIGN_32).cast_signed()
);
number!(
    /// 64 bits with a sign.
    I64, i64, u64, |value| value.cast_unsigned() ^ SIGN_64, |bits| (bits ^ SIGN_64).cast_signed()
);
number!(
    /// A float, in the total order of IEEE 754: negative NaN first, then from minus infinity on.
    F64, f64, u64,
    |value| {
        let bits = value.to_bits();
        if bits & SIGN_64 == 0 { bits ^ SIGN_64 } else { !bits }
    },
    |bits| f64::from_bits(if bits & SIGN_64 == 0 { !bits } else { bits ^ SIGN_64 })
);

/// Two of them, ordered by the first and then by the second: for a secondary sort, the second half
/// of a key.
#[derive(Debug)]
pub struct Pair<A, B>(PhantomData<(A, B)>);

/// A zero in the first half is written as this...
const ZERO: [u8; 2] = [0, 0xFF];
/// ...and its end as this, which orders before.
const END: [u8; 2] = [0, 1];

/// Octets of a pair up to the end of its first half; all when it does not end.
pub fn first_half(octets: &[u8]) -> usize {
    let mut from = 0;
    while let Some(zero) = octets[from..].iter().position(|octet| *octet == 0) {
        from += zero + 2;
        if from >= octets.len() || octets[from - 2..from] == END {
            break;
        }
    }
    if from == 0 {
        octets.len()
    } else {
        from.min(octets.len())
    }
}

/// The halves of a pair, as octets; what is read is mostly not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves<'a> {
    first: Cow<'a, [u8]>,
    second: Cow<'a, [u8]>,
}

impl<'a> Halves<'a> {
    /// Of two values.
    pub fn new<A: Codec, B: Codec>(first: A::Ref<'_>, second: B::Ref<'_>) -> Self {
        let mut halves = (Vec::new(), Vec::new());
        A::encode(first, &mut halves.0);
        B::encode(second, &mut halves.1);
        Self {
            first: halves.0.into(),
            second: halves.1.into(),
        }
    }

    /// Of a pair's octets.
    pub fn of(octets: &'a [u8]) -> Result<Self, CodecError> {
        let found = octets.len();
        let no_end = CodecError::Pair { found };
        let mut unescaped: Option<Vec<u8>> = None;
        let mut from = 0;
        loop {
            let rest = octets.get(from..).ok_or(no_end)?;
            let zero = rest.iter().position(|octet| *octet == 0).ok_or(no_end)?;
            let mark = octets.get(from + zero..from + zero + 2).ok_or(no_end)?;
            let part = &octets[from..from + zero];
            let next = from + zero + 2;
            if mark == END {
                let first = match unescaped {
                    None => part.into(),
                    Some(mut all) => {
                        all.extend_from_slice(part);
                        all.into()
                    }
                };
                let second = octets[next..].into();
                return Ok(Self { first, second });
            }
            if mark != ZERO {
                return Err(no_end);
            }
            let all = unescaped.get_or_insert_default();
            all.extend_from_slice(part);
            all.push(0);
            from = next;
        }
    }

    /// The octets of the first half.
    pub fn first_octets(&self) -> &[u8] {
        &self.first
    }

    /// The first half.
    pub fn first<A: Codec>(&self) -> Result<A::Ref<'_>, CodecError> {
        A::decode(&self.first)
    }

    /// The second half.
    pub fn second<B: Codec>(&self) -> Result<B::Ref<'_>, CodecError> {
        B::decode(&self.second)
    }
}

impl<A: Codec, B: Codec> Codec for Pair<A, B> {
    type Ref<'a> = Halves<'a>;

    fn encode(value: Halves<'_>, to: &mut Vec<u8>) {
        let mut rest: &[u8] = &value.first;
        while let Some(zero) = rest.iter().position(|octet| *octet == 0) {
            to.extend_from_slice(&rest[..zero]);
            to.extend_from_slice(&ZERO);
            rest = &rest[zero + 1..];
        }
        to.extend_from_slice(rest);
        to.extend_from_slice(&END);
        to.extend_from_slice(&value.second);
    }

    fn decode(octets: &[u8]) -> Result<Halves<'_>, CodecError> {
        let halves = Halves::of(octets)?;
        halves.first::<A>()?;
        halves.second::<B>()?;
        Ok(halves)
    }

    fn text(value: Halves<'_>, to: &mut Vec<u8>) {
        match value.first::<A>() {
            Ok(first) => A::text(first, to),
            Err(_) => to.extend_from_slice(&value.first),
        }
        to.push(b'\t');
        match value.second::<B>() {
            Ok(second) => B::text(second, to),
            Err(_) => to.extend_from_slice(&value.second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octets<C: Codec>(value: C::Ref<'_>) -> Vec<u8> {
        let mut octets = Vec::new();
        C::encode(value, &mut octets);
        octets
    }

    fn pair(first: &[u8], second: i64) -> Vec<u8> {
        let mut octets = Vec::new();
        Pair::<Bytes, I64>::encode(Halves::new::<Bytes, I64>(first, second), &mut octets);
        octets
    }

    /// Octets in which zeros and their escapes are frequent.
    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()];
        prop::collection::vec(octet, 0..8)
    }

    proptest! {
        #[test]
        fn octets_compare_as_numbers_do(a: i64, b: i64, c: f64, d: f64, e: u32, f: u32) {
            prop_assert_eq!(octets::<I64>(a).cmp(&octets::<I64>(b)), a.cmp(&b));
            prop_assert_eq!(octets::<F64>(c).cmp(&octets::<F64>(d)), c.total_cmp(&d));
            prop_assert_eq!(octets::<U32>(e).cmp(&octets::<U32>(f)), e.cmp(&f));
            prop_assert_eq!(I64::decode(&octets::<I64>(a)), Ok(a));
            let back = F64::decode(&octets::<F64>(c)).expect("it is one");
            prop_assert_eq!(back.to_bits(), c.to_bits());
            let (g, h) = (e.cast_signed(), f.cast_signed());
            prop_assert_eq!(octets::<I32>(g).cmp(&octets::<I32>(h)), g.cmp(&h));
        }

        #[test]
        fn pairs_compare_by_the_first_half_and_then_by_the_second(
            a in tricky(), b in tricky(), c: i64, d: i64,
        ) {
            prop_assert_eq!(pair(&a, c).cmp(&pair(&b, d)), (&a, c).cmp(&(&b, d)));
            let all = pair(&a, c);
            let halves = Halves::of(&all).expect("it is a pair");
            prop_assert_eq!(halves.first::<Bytes>(), Ok(&a[..]));
            prop_assert_eq!(halves.second::<I64>(), Ok(c));
        }

        #[test]
        fn what_is_no_pair_is_refused(any in tricky()) {
            if let Ok(halves) = Halves::of(&any) {
                let mut again = Vec::new();
                Pair::<Bytes, Bytes>::encode(halves, &mut again);
                prop_assert_eq!(again, any);
            }
        }
    }

    #[test]
    fn octets_of_another_type_are_refused_with_what_was_found() {
        let error = U64::decode(b"abc").expect_err("three octets");
        assert_eq!(error.to_string(), "3 octets are no U64");
        let error = Text::decode(b"ab\xFF").expect_err("no text");
        assert_eq!(error.to_string(), "the text is not UTF-8 after 2 octets");
        assert!(Unit::decode(b"x").is_err());
    }
}
