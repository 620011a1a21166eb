//! Sizes and durations as files and the wire have them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::size;

/// Bytes, as `"512M"` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Milliseconds, as `"8h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        bytes(d).map(Self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&size::format_size(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        milliseconds(d).map(Self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&size::format_duration_ms(self.0))
    }
}

/// A size in TOML: a number of bytes or a text such as `"8G"`.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    quantity(d, size::parse_size)
}

/// The same, if it is there.
pub(crate) fn optional_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    if !d.is_human_readable() {
        return Option::deserialize(d);
    }
    bytes(d).map(Some)
}

/// A duration in TOML, as text.
pub(crate) fn milliseconds<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    quantity(d, size::parse_duration_ms)
}

fn quantity<'de, D: Deserializer<'de>>(
    d: D,
    parse: fn(&str) -> Result<u64, size::QuantityError>,
) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    // As the wire has it, where a quantity is a number.
    if !d.is_human_readable() {
        return u64::deserialize(d);
    }
    match Either::deserialize(d)? {
        Either::Number(n) => Ok(n),
        Either::Text(text) => parse(&text).map_err(serde::de::Error::custom),
    }
}
