//! The number that a client gives a write, by which the server keeps the order of a connection's writes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::number::{MAX_SAFE_INTEGER, read_whole};

/// The number of a write, and the number of the write that it follows. The server stores a write only once the one before
/// it is settled: stored, or refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WriteNumber {
    /// The number of this write; the first is 1.
    pub n: u64,
    /// The number of the write that this one follows; 0 if it follows none.
    pub after: u64,
}

/// The two fields of a frame that make a write number.
#[derive(Deserialize)]
struct Numbers<'a> {
    #[serde(borrow)]
    n: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

impl WriteNumber {
    /// The highest allowed number, which JavaScript can still read exactly.
    pub const MAX: u64 = MAX_SAFE_INTEGER as u64;

    /// Reads the write number of a frame, which is a JSON object; `None` if the frame has none.
    ///
    /// # Errors
    /// The name of the invalid field, and what is wrong with it.
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
