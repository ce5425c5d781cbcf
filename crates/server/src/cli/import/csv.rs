//! CSV: a message a row. The first row names the columns.

use std::collections::HashSet;
use std::io::Read;

use anyhow::{Context as _, bail};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use switchboard_protocol::Timestamp;

use super::{Record, Records, output};

/// The fields of a message that a column may have.
const FIELDS: [&str; 6] = ["to", "from", "at", "text", "data", "key"];

/// From this number on a time is in milliseconds since 1970, below it in seconds: the year 5138, and March 1973.
const FIRST_MILLISECONDS: i64 = 100_000_000_000;

/// How a CSV file is read.
#[derive(Debug, Default)]
pub(super) struct CsvOptions {
    /// Fields with the names of their columns, where these differ.
    pub(super) columns: Vec<(String, String)>,
    /// Whether a line creates each room before its first message.
    pub(super) creates_rooms: bool,
}

/// Reads `field=column`.
pub(super) fn parse_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if FIELDS.contains(&field) && !column.is_empty() => {
            Ok((field.to_owned(), column.to_owned()))
        }
        _ => Err(format!("write FIELD=COLUMN; the fields are {}", FIELDS.join(", "))),
    }
}

/// The messages of a CSV file.
///
/// # Errors
/// A column is missing.
pub(super) fn records(file: Box<dyn Read>, options: &CsvOptions) -> anyhow::Result<Records> {
    let mut reader = csv::ReaderBuilder::new().from_reader(file);
    let header = reader.headers().context("cannot read the first row")?.clone();
    let place_of = |field: &str| {
        let named = options.columns.iter().find(|(of, _)| of == field).map(|(_, column)| column.as_str());
        let place =
            header.iter().position(|column| column.trim_start_matches('\u{feff}') == named.unwrap_or(field));
        match (place, named) {
            (None, Some(column)) => bail!("the file has no column {column:?}"),
            (None, None) if ["to", "from", "at"].contains(&field) => {
                bail!("the file has no column {field:?}; --columns {field}=NAME says which one it is")
            }
            _ => Ok(place),
        }
    };
    let mut places = Vec::new();
    for field in FIELDS {
        places.push((field, place_of(field)?));
    }
    if !places.iter().any(|(field, place)| matches!(*field, "text" | "data") && place.is_some()) {
        bail!("the file has no column \"text\"; --columns text=NAME says which one it is");
    }
    let ignored: Vec<_> = (header.iter().enumerate())
        .filter(|(at, _)| !places.iter().any(|(_, place)| *place == Some(*at)))
        .map(|(_, column)| output::printable(column))
        .collect();
    if !ignored.is_empty() {
        output::eprint_line(&format!("ignored columns: {}", ignored.join(", ")));
    }
    let mut rows = Rows {
        reader,
        places,
        creates_rooms: options.creates_rooms,
        created: HashSet::new(),
        counts: FxHashMap::default(),
        waiting: None,
    };
    Ok(Box::new(std::iter::from_fn(move || rows.next())))
}

struct Rows {
    reader: csv::Reader<Box<dyn Read>>,
    places: Vec<(&'static str, Option<usize>)>,
    creates_rooms: bool,
    created: HashSet<String>,
    /// How often each row came, by the first half of its digest.
    counts: FxHashMap<u128, u64>,
    /// The message that follows the creation of its room.
    waiting: Option<Record>,
}

impl Rows {
    fn next(&mut self) -> Option<anyhow::Result<Record>> {
        if let Some(record) = self.waiting.take() {
            return Some(Ok(record));
        }
        let mut row = csv::StringRecord::new();
        match self.reader.read_record(&mut row) {
            Ok(false) => None,
            Ok(true) => Some(self.convert(&row)),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn convert(&mut self, row: &csv::StringRecord) -> anyhow::Result<Record> {
        let place = format!("line {}", row.position().map_or(0, csv::Position::line));
        let mut fields = Map::new();
        for (field, at) in &self.places {
            let Some(value) = at.and_then(|at| row.get(at)).filter(|value| !value.is_empty()) else {
                continue;
            };
            let value = match *field {
                "at" => json!(read_time(value).with_context(|| format!("{place}: at: no time"))?),
                "data" => serde_json::from_str(value).with_context(|| format!("{place}: data: no JSON"))?,
                _ => Value::from(value),
            };
            fields.insert((*field).to_owned(), value);
        }
        let digest = digest_of(row);
        let count = self.counts.entry(digest).or_default();
        fields.entry("key").or_insert_with(|| format!("csv-{digest:032x}-{count}").into());
        *count += 1;
        let room =
            fields.get("to").and_then(Value::as_str).filter(|to| to.starts_with('#')).map(ToOwned::to_owned);
        let create =
            room.filter(|room| self.creates_rooms && self.created.insert(room.clone())).map(|room| {
                json!({ "create": room, "at": fields.get("at"), "from": fields.get("from") })
                    .to_string()
                    .into_bytes()
            });
        let message = Record { place: place.clone(), line: Value::Object(fields).to_string().into_bytes() };
        Ok(match create {
            Some(line) => {
                self.waiting = Some(message);
                Record { place, line }
            }
            None => message,
        })
    }
}

/// The first half of the SHA-256 of a row's fields.
fn digest_of(row: &csv::StringRecord) -> u128 {
    let mut hash = Sha256::new();
    for field in row {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    let digest = hash.finalize();
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Reads a time: RFC 3339, with a space in place of the `T` and without a zone for UTC, or seconds or milliseconds since 1970.
fn read_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        let millis = if number.abs() >= FIRST_MILLISECONDS { number } else { number.checked_mul(1_000)? };
        return Some(Timestamp::from_millis(millis));
    }
    let text = text.replacen(' ', "T", 1);
    [text.clone(), format!("{text}Z")].into_iter().find_map(|text| serde_json::from_value(text.into()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(csv: &'static str, options: &CsvOptions) -> Vec<String> {
        let records = records(Box::new(csv.as_bytes()), options).expect("columns");
        records.map(|record| String::from_utf8(record.expect("a row").line).expect("UTF-8")).collect()
    }

    #[test]
    fn the_key_of_a_row_is_made_of_its_fields_and_how_often_it_came() {
        let rows = "to,from,at,text\n#r,bob,2019-01-01T00:00:00Z,hi\n#r,bob,2019-01-01T00:00:00Z,hi\n#r,bob,2019-01-01T00:00:00Z,\"h\ni\"\n";
        let first = lines(rows, &CsvOptions::default());
        assert_eq!(first, lines(rows, &CsvOptions::default()), "the same each time");
        let keys: HashSet<_> = first
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["key"].to_string())
            .collect();
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn columns_have_other_names_and_rooms_are_created_once() {
        let rows = "when,author,room,body,extra\n1546300800,bob,#r,hi,x\n1546300801000,ana,#r,\"a, b\",x\n";
        let columns = ["to=room", "from=author", "at=when", "text=body"]
            .map(|pair| parse_column(pair).expect("a pair"));
        let lines = lines(rows, &CsvOptions { columns: columns.to_vec(), creates_rooms: true });
        assert_eq!(lines[0], r##"{"at":"2019-01-01T00:00:00.000Z","create":"#r","from":"bob"}"##);
        assert!(lines[1].contains(r#""at":"2019-01-01T00:00:00.000Z""#), "{lines:?}");
        assert!(lines[2].contains(r#""text":"a, b""#) && lines[2].contains("00:00:01.000Z"), "{lines:?}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn times_are_read_as_databases_write_them() {
        let expected = Some(Timestamp::from_millis(1_546_300_800_000));
        for text in ["2019-01-01 00:00:00", "2019-01-01T01:00:00+01:00", "1546300800", "1546300800000"] {
            assert_eq!(read_time(text), expected, "{text}");
        }
        for text in ["", "yesterday", "2019-13-01", "99999999999999999999"] {
            assert_eq!(read_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_without_a_needed_column_is_refused() {
        for header in ["from,at,text\n", "to,from,text\n", "to,from,at\n"] {
            assert!(records(Box::new(header.as_bytes()), &CsvOptions::default()).is_err(), "{header}");
        }
        assert!(parse_column("colour=red").is_err());
    }
}
