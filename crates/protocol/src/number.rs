//! Whole numbers in JSON. `4`, `4.0`, `40e-1` and `-0` are all accepted as whole, because RFC 8259 section 6 has one kind
//! of number and some JSON libraries write every number with a decimal point.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// The largest whole number that a JavaScript client reads exactly: 2^53 - 1 (ECMA-262 section 21.1.2.6).
pub(crate) const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// The double as a whole number; `None` if it has a fraction or is beyond [`MAX_SAFE_INTEGER`].
pub(crate) fn whole_number(n: f64) -> Option<i64> {
    let exact = n.fract() == 0.0 && n.abs() <= MAX_SAFE_INTEGER as f64;
    exact.then_some(n as i64)
}

/// Reads a whole number from 0 to `max`.
pub(crate) fn read_whole<'de, D: Deserializer<'de>>(d: D, max: u64) -> Result<u64, D::Error> {
    d.deserialize_u64(WholeNumber { max })
}

/// Reads an optional `limit`: a whole number of 32 bits, or null.
pub(crate) fn read_limit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    struct Limit;
    impl<'de> Visitor<'de> for Limit {
        type Value = Option<u32>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            WholeNumber { max: u32::MAX.into() }.expecting(f)
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            let n = read_whole(d, u32::MAX.into())?;
            Ok(u32::try_from(n).ok())
        }
    }
    d.deserialize_option(Limit)
}

struct WholeNumber {
    max: u64,
}

impl Visitor<'_> for WholeNumber {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            n if n == MAX_SAFE_INTEGER as u64 => f.write_str("a whole number from 0 to 2^53 - 1"),
            n => write!(f, "a whole number from 0 to {n}"),
        }
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
        if n <= self.max { Ok(n) } else { Err(E::invalid_value(Unexpected::Unsigned(n), &self)) }
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<u64, E> {
        match u64::try_from(n) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(n), &self)),
        }
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<u64, E> {
        match whole_number(n).and_then(|n| u64::try_from(n).ok()).filter(|n| *n <= self.max) {
            Some(n) => Ok(n),
            None => Err(E::invalid_value(Unexpected::Float(n), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_without_a_fraction_that_is_exact_is_a_whole_number() {
        for (n, expected) in [
            (4.0, Some(4)),
            (-0.0, Some(0)),
            (1e1, Some(10)),
            (-7.0, Some(-7)),
            (9_007_199_254_740_991.0, Some(MAX_SAFE_INTEGER)),
            (9_007_199_254_740_992.0, None),
            (4.5, None),
            (1e300, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(whole_number(n), expected, "{n}");
        }
    }
}
