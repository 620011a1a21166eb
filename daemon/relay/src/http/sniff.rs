//! Whether a connection's first bytes are HTTP.

/// The longest first line, with what is before it.
const MAX_LINE: usize = 16 << 10;

/// What the first bytes are.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// Not known. Who stops waiting here must refuse.
    NeedMore,
    /// What some server reads as a request, if not a good one.
    Http,
    /// Another protocol.
    Other,
    /// A first line without an end.
    TooLong,
}

/// Looks at the first bytes of a connection, all of them at each call. What any server could take for a request is
/// HTTP: empty lines or blanks before it, blanks of any kind and number between its parts, HTTP/0.9's GET without a
/// version. The version's name makes the rest of it: protocols with lines of their own do not have it.
pub fn sniff(input: &[u8]) -> Sniff {
    let Some(begin) = input.iter().position(|byte| !is_blank(*byte)) else {
        return if input.len() < MAX_LINE { Sniff::NeedMore } else { Sniff::TooLong };
    };
    let rest = &input[begin..];
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.unwrap_or(rest.len())];
    let simple = |line: &[u8]| line.len() > 3 && line[..3].eq_ignore_ascii_case(b"get") && is_blank(line[3]);
    let versioned = |line: &[u8]| line.windows(5).any(|part| part.eq_ignore_ascii_case(b"http/"));
    if simple(line) || versioned(line) {
        return Sniff::Http;
    }
    // No text: no server reads on after such a byte.
    if end.is_some() || line.iter().any(|byte| matches!(byte, 0..=8 | 0x0e..=0x1b | 0x7f)) {
        return Sniff::Other;
    }
    if input.len() < MAX_LINE { Sniff::NeedMore } else { Sniff::TooLong }
}

/// What some language's "split at blanks" splits at.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}
