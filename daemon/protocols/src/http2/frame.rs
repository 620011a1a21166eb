//! Frames (RFC 9113 §4, §6): their headers, settings, and the compressed head that several of them make up.

use crate::http::Refused;

/// A frame's header, in bytes.
pub(super) const HEADER: usize = 9;
/// One of the settings, in bytes.
pub(super) const SETTING: usize = 6;
/// The number of SETTINGS_HEADER_TABLE_SIZE.
pub(super) const TABLE_SIZE: u16 = 1;
/// Settings that have a meaning (RFC 9113 §6.5.2, 8441, 9218).
pub(super) const KNOWN_SETTINGS: [u16; 8] = [1, 2, 3, 4, 5, 6, 8, 9];
/// The most frames of one head: without a bound, empty ones would never end it (CVE-2024-27316).
const MAX_CONTINUATIONS: usize = 64;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The stream and weight that a head may say it depends on.
const PRIORITY_LENGTH: usize = 5;

/// The kinds that mean something here.
pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
}

/// A frame's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Frame {
    /// Reads the header that `input` begins with; `None` if it is not whole.
    pub(super) fn parse(input: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = input.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        // The first bit is reserved, and ignored.
        let stream = u32::from_be_bytes(*stream) & (u32::MAX >> 1);
        Some(Self { length, kind: *kind, flags: *flags, stream })
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A frame with `payload`, shorter than the longest that everybody takes: 16 KiB.
    pub(super) fn write(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [.., a, b, c] = payload.len().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }
}

/// Number and value of each setting.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks::<SETTING>()
        .0
        .iter()
        .map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
}

/// The compressed head that begins with `first` at the beginning of `input`, and the length of all of its frames;
/// `None` while they are not whole.
///
/// # Errors
/// A head of more than `most` bytes, or frames that are not its own between its frames.
pub(super) fn block(first: Frame, input: &[u8], most: usize) -> Result<Option<(Vec<u8>, usize)>, Refused> {
    const TOO_LONG: Refused = Refused::TooLong("the head");
    if first.stream == 0 {
        return Err(Refused::Form("a stream"));
    }
    if first.length > most {
        return Err(TOO_LONG);
    }
    let Some(payload) = input.get(HEADER..HEADER + first.length) else { return Ok(None) };
    let mut block = bare(first, payload)?.to_vec();
    let mut len = HEADER + first.length;
    let mut whole = first.has(END_HEADERS);
    for _ in 0..MAX_CONTINUATIONS {
        if whole {
            return Ok(Some((block, len)));
        }
        let Some(next) = Frame::parse(&input[len..]) else { return Ok(None) };
        if next.kind != kind::CONTINUATION || next.stream != first.stream {
            return Err(Refused::Form("a head with something else in it"));
        }
        if block.len() + next.length > most {
            return Err(TOO_LONG);
        }
        let Some(payload) = input.get(len + HEADER..len + HEADER + next.length) else { return Ok(None) };
        block.extend(payload);
        len += HEADER + next.length;
        whole = next.has(END_HEADERS);
    }
    if whole { Ok(Some((block, len))) } else { Err(TOO_LONG) }
}

/// The payload of a head's first frame without padding and priority.
fn bare(frame: Frame, payload: &[u8]) -> Result<&[u8], Refused> {
    const FORM: Refused = Refused::Form("padding");
    let (padding, rest) = match frame.has(PADDED) {
        true => payload.split_first().map(|(padding, rest)| (usize::from(*padding), rest)).ok_or(FORM)?,
        false => (0, payload),
    };
    let skipped = if frame.has(PRIORITY) { PRIORITY_LENGTH } else { 0 };
    let end = rest.len().checked_sub(padding).ok_or(FORM)?;
    rest.get(skipped..end).ok_or(FORM)
}
