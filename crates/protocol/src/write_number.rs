//! The place of a write among the writes of its connection, as its client numbers them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::number::{MAX_SAFE_INTEGER, read_whole};

/// A write's number, and that of the write which it follows: the server stores it only once that one is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WriteNumber {
    /// Its own number, from 1 on.
    pub n: u64,
    /// The number of the write that it follows; 0 for none.
    pub after: u64,
}

/// The fields of a frame that make a write number.
#[derive(Deserialize)]
struct Numbers<'a> {
    #[serde(borrow)]
    n: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

impl WriteNumber {
    /// The highest number, which JavaScript reads exactly.
    pub const MAX: u64 = MAX_SAFE_INTEGER as u64;

    /// Reads the number of a frame, which is a JSON object; `None` if it has none.
    ///
    /// # Errors
    /// The field at fault, and what is wrong with it.
    pub(crate) fn read(frame: &str) -> Result<Option<Self>, (&'static str, String)> {
        let Numbers { n, after } = serde_json::from_str(frame).map_err(|error| {
            let error = error.to_string();
            (if error.contains("`n`") { "n" } else { "after" }, error)
        })?;
        let whole = |field, raw: &RawValue| {
            let mut json = serde_json::Deserializer::from_str(raw.get());
            read_whole(&mut json, Self::MAX).map_err(|error| (field, error.to_string()))
        };
        let (n, after) = match (n, after) {
            (None, None) => return Ok(None),
            (Some(n), Some(after)) => (whole("n", n)?, whole("after", after)?),
            (None, Some(_)) => return Err(("n", "it is missing: `after` comes with `n`".to_owned())),
            (Some(_), None) => return Err(("after", "it is missing: `n` comes with `after`".to_owned())),
        };
        match (n, after) {
            (0, _) => Err(("n", "the first write is number 1".to_owned())),
            (n, after) if after >= n => Err(("after", format!("it is less than `n`, which is {n}"))),
            (n, after) => Ok(Some(Self { n, after })),
        }
    }
}
