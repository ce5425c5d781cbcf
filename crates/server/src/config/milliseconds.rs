//! Serialises a duration as a whole number of milliseconds. It has at most 32 bits, which is 49 days, because a longer duration
//! could overflow a timer.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u32(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    u32::deserialize(d).map(|ms| Duration::from_millis(ms.into()))
}
