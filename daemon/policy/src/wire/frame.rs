//! What travels between relay and service: frames on a stream, `kind` (1 byte), length (3 bytes, little
//! endian), payload.

/// Towards the command: bytes for its standard input.
pub const STDIN: u8 = 0;
/// Towards the command: no more of them. No payload.
pub const STDIN_EOF: u8 = 1;
/// Towards the command: rows and columns, 2 bytes each, little endian.
pub const RESIZE: u8 = 2;
/// From the command: its standard output, or its terminal.
pub const STDOUT: u8 = 3;
/// From the command: its standard error.
pub const STDERR: u8 = 4;
/// From the command: nothing more will come. No payload.
pub const DRAINED: u8 = 5;
/// From the service, first on every stream but the one that the session was born with: how many bytes of
/// output it has (both streams' payloads together; 8 bytes, little endian). What follows these comes (again).
pub const RESUME: u8 = 6;
/// From the service: it has so many bytes of output for good (8 bytes, little endian); or, after
/// [`DRAINED`], all of it. The relay keeps what was not acknowledged, and reads on only as far as it has room.
pub const ACK: u8 = 7;
/// From the service, without payload: show me the terminal's screen. To it: a piece of the answer, at its
/// place in the output but not part of it; an empty one is its end. Without a terminal only that comes.
pub const SCREEN: u8 = 8;
/// To the service, first after [`RESUME`], and again as the command takes its input (at the latest when half
/// of [`INPUT_WINDOW`] was taken since): how many bytes of input were taken (8 bytes, little endian). The
/// service sends at most [`INPUT_WINDOW`] beyond it, so that an [`ACK`] never waits behind input that the
/// command does not read.
pub const INPUT: u8 = 9;
/// The most bytes of input that wait for a command.
pub const INPUT_WINDOW: u64 = 256 << 10;

/// The longest payload, in bytes.
pub const MAX: usize = 64 << 10;
/// Bytes before the payload.
pub const HEADER: usize = 4;

/// The header of a frame; `None` if `len` is beyond [`MAX`].
pub fn header(kind: u8, len: usize) -> Option<[u8; HEADER]> {
    let [a, b, c, ..] = u32::try_from(len).ok()?.to_le_bytes();
    (len <= MAX).then_some([kind, a, b, c])
}

/// Kind and length of the payload that follows `header`; `None` if it is none of ours.
pub fn parse(header: [u8; HEADER]) -> Option<(u8, usize)> {
    let [kind, a, b, c] = header;
    let len = u32::from_le_bytes([a, b, c, 0]) as usize;
    let right = match kind {
        STDIN | STDOUT | STDERR | SCREEN => len <= MAX,
        STDIN_EOF | DRAINED => len == 0,
        RESIZE => len == 4,
        RESUME | ACK | INPUT => len == 8,
        _ => false,
    };
    right.then_some((kind, len))
}
