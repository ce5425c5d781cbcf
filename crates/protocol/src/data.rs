//! `data`: a JSON object for the application, restricted to I-JSON (RFC 7493).

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

/// The most levels of nesting in `data`. PHP's `json_decode` allows 512 and the parsers of other languages allow 100 or
/// more, so every recipient can read an accepted object.
const MAX_DEPTH: usize = 64;

/// Any JSON object of the application: at most 64 levels deep, no duplicate name in an object (RFC 7493 section 2.3), no
/// U+0000 in a string, numbers within the range of an IEEE 754 double. Its names are sorted, so equal objects have equal
/// bytes.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "Record<string, unknown>"))]
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Data(Map<String, Value>);

impl Data {
    /// The object.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match (StrictValue { levels_left: MAX_DEPTH }).deserialize(d)? {
            Value::Object(map) => Ok(Self(map)),
            other => Err(de::Error::invalid_type(unexpected(&other), &"an object `{…}`")),
        }
    }
}

impl JsonSchema for Data {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Data".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "description": "Any JSON object of the application's own." })
    }
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Unit,
        Value::Bool(b) => de::Unexpected::Bool(*b),
        Value::Number(n) => {
            n.as_i64().map_or(de::Unexpected::Float(n.as_f64().unwrap_or_default()), de::Unexpected::Signed)
        }
        Value::String(s) => de::Unexpected::Str(s),
        Value::Array(_) => de::Unexpected::Seq,
        Value::Object(_) => de::Unexpected::Map,
    }
}

/// A visitor that builds a value and refuses JSON outside I-JSON.
#[derive(Clone, Copy)]
struct StrictValue {
    levels_left: usize,
}

impl StrictValue {
    fn one_level_deeper<E: de::Error>(self) -> Result<Self, E> {
        let levels_left = self
            .levels_left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))?;
        Ok(Self { levels_left })
    }
}

fn refuse_nul<E: de::Error>(s: &str) -> Result<(), E> {
    if s.contains('\0') { Err(E::custom("a string contains the character U+0000")) } else { Ok(()) }
}

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Value, E> {
        let number = Number::from_f64(n).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Value::Number(number))
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<Value, E> {
        refuse_nul(s)?;
        Ok(Value::String(s.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.one_level_deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.one_level_deeper()?;
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            refuse_nul(&name)?;
            let value = entries.next_value_seed(seed)?;
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("a name stands twice in one object"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::Data;

    #[test]
    fn json_that_parsers_read_differently_is_refused() {
        let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#"[1]"#,
            "7",
            &format!(r#"{{"a":{deep}}}"#),
        ] {
            assert!(serde_json::from_str::<Data>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_numbers_keep_all_their_digits() {
        for number in ["0.1", "51.24817837550540", "9007199254740991.0", "1.7976931348623157e308", "5e-324"] {
            let data: Data = serde_json::from_str(&format!(r#"{{"n":{number}}}"#)).expect(number);
            assert_eq!(data.as_map()["n"].as_f64(), number.parse().ok(), "{number}");
        }
    }

    #[test]
    fn equal_objects_have_equal_bytes() {
        let a: Data = serde_json::from_str(r#"{"b":[1,null,"x"], "a":{"d":1.5,"c":true}}"#).expect("a");
        let b: Data = serde_json::from_str(r#"{"a":{"c":true,"d":1.5},"b":[1,null,"x"]}"#).expect("b");
        assert_eq!(serde_json::to_string(&a).expect("a"), serde_json::to_string(&b).expect("b"));
    }
}
