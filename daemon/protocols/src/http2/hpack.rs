//! The compression of heads (RFC 7541), as far as reading goes. The table that both ends keep follows every head: one
//! that is refused ends the connection, because a reader that goes on would have another table.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::huffman;
use crate::http::Refused;

/// The largest table that is kept, whatever the server would take.
pub(super) const MAX_TABLE: usize = 64 << 10;
/// How large it is until a SETTINGS frame changes it (RFC 9113 §6.5.2).
const TABLE: usize = 4096;
/// What an entry counts besides its texts (RFC 7541 §4.1).
const OVERHEAD: usize = 32;
/// The most that one head may hold, counted alike: references make much of little.
const MAX_LIST: usize = 256 << 10;
const FORM: Refused = Refused::Form("a compressed head");

/// A name and its value.
type Field = (Box<[u8]>, Box<[u8]>);

/// The table of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    /// What it may hold by the last word of who writes.
    limit: usize,
    /// What that may be, by the word of who reads.
    allowed: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: TABLE, allowed: TABLE }
    }
}

impl Decoder {
    /// Who reads at the other end takes a table of so many bytes.
    pub(super) fn allow(&mut self, size: usize) {
        self.allowed = self.allowed.max(size.min(MAX_TABLE));
    }

    /// Hands the fields of a head to `each`, in order.
    ///
    /// # Errors
    /// What is malformed, holds too much, or is refused by `each`. The table is of no use any more.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let (mut list, mut begun) = (0, false);
        while let Some(first) = block.first().copied() {
            if first & 0xe0 == 0x20 {
                // A new size comes before any field.
                if begun {
                    return Err(FORM);
                }
                self.resize(integer(&mut block, 5)?)?;
                continue;
            }
            begun = true;
            let (name, value, kept) = if first & 0x80 != 0 {
                let (name, value) = self.entry(integer(&mut block, 7)?)?;
                (Cow::Owned(name.to_vec()), Cow::Owned(value.to_vec()), false)
            } else {
                let kept = first & 0x40 != 0;
                let name = match integer(&mut block, if kept { 6 } else { 4 })? {
                    0 => text(&mut block)?,
                    number => Cow::Owned(self.entry(number)?.0.to_vec()),
                };
                (name, text(&mut block)?, kept)
            };
            list += name.len() + value.len() + OVERHEAD;
            if list > MAX_LIST {
                return Err(Refused::TooLong("the list of fields"));
            }
            each(&name, &value)?;
            if kept {
                self.insert(&name, &value);
            }
        }
        Ok(())
    }

    fn entry(&self, number: usize) -> Result<(&[u8], &[u8]), Refused> {
        let number = number.checked_sub(1).ok_or(FORM)?;
        match STATIC.get(number) {
            Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
            None => match self.table.get(number - STATIC.len()) {
                Some((name, value)) => Ok((name, value)),
                None => Err(FORM),
            },
        }
    }

    fn resize(&mut self, limit: usize) -> Result<(), Refused> {
        if limit > self.allowed {
            return Err(FORM);
        }
        self.limit = limit;
        self.evict(limit);
        Ok(())
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(self.limit.saturating_sub(size));
        // One that is larger than the table empties it.
        if size <= self.limit {
            self.size += size;
            self.table.push_front((name.into(), value.into()));
        }
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + OVERHEAD;
        }
    }
}

/// A number whose first bits are in `prefix` bits (RFC 7541 §5.1).
fn integer(input: &mut &[u8], prefix: u32) -> Result<usize, Refused> {
    let mask = (1_usize << prefix) - 1;
    let (first, rest) = input.split_first().ok_or(FORM)?;
    *input = rest;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Ok(value);
    }
    // Beyond these no number means anything here.
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = input.split_first().ok_or(FORM)?;
        *input = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(FORM)
}

fn text<'a>(input: &mut &'a [u8]) -> Result<Cow<'a, [u8]>, Refused> {
    let coded = input.first().ok_or(FORM)? & 0x80 != 0;
    let length = integer(input, 7)?;
    let (text, rest) = input.split_at_checked(length).ok_or(FORM)?;
    *input = rest;
    Ok(if coded { Cow::Owned(huffman::decode(text)?) } else { Cow::Borrowed(text) })
}

/// What every table begins with (RFC 7541, appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
