//! Each reader with whatever bytes, for property tests and fuzzers: none may panic, and what each promises of itself is
//! asserted.

mod dns;
mod hello;
mod http;
mod http2;
mod names;

pub use dns::{dns_query, dns_reply};
pub use hello::hello;
pub use http::{exchange, http};
pub use http2::http2;
pub use names::{socks, target};

/// `bytes` in one piece, byte by byte, and in pieces of several lengths.
fn splits(bytes: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    // The same bytes are always cut in the same places.
    let mut state =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, later) = rest.split_at((1 + (state >> 24) as usize % 61).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    [vec![bytes], bytes.chunks(1).collect(), pieces]
}
