//! Sizes and durations as files and the wire have them.

use std::fmt;

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
        written(s, self.0, size::format_size)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        milliseconds(d).map(Self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        written(s, self.0, size::format_duration_ms)
    }
}

/// As text for people, and as a number on the wire.
fn written<S: Serializer>(s: S, quantity: u64, text: fn(u64) -> String) -> Result<S::Ok, S::Error> {
    if s.is_human_readable() { s.serialize_str(&text(quantity)) } else { s.serialize_u64(quantity) }
}

/// Any of these with its unit, as refusals show it. Only those of one unit compare.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Amount {
    /// Bytes, of memory or disk.
    Size(u64),
    /// Milliseconds of time.
    Span(u64),
    /// So many of something.
    Count(u64),
    /// CPUs' worth of time.
    Cpus(f64),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => f.write_str(&size::format_size(*bytes)),
            Self::Span(ms) => f.write_str(&size::readable_duration(*ms)),
            Self::Count(count) => count.fmt(f),
            Self::Cpus(cpus) => cpus.fmt(f),
        }
    }
}

impl From<Size> for Amount {
    fn from(size: Size) -> Self {
        Self::Size(size.0)
    }
}

impl From<Span> for Amount {
    fn from(span: Span) -> Self {
        Self::Span(span.0)
    }
}

impl From<u64> for Amount {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Amount {
    fn from(cpus: f64) -> Self {
        Self::Cpus(cpus)
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

impl From<u64> for Span {
    fn from(ms: u64) -> Self {
        Self(ms)
    }
}

impl From<Span> for u64 {
    fn from(span: Span) -> Self {
        span.0
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
