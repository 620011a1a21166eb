//! A refusal as clients of SSH understand it: the disconnect that a server may send before any key is exchanged.

/// What a client sends first (RFC 4253 §4.2).
pub const BANNER: &[u8] = b"SSH-";
/// SSH_MSG_DISCONNECT (RFC 4253 §11.1).
const DISCONNECT: u8 = 1;
/// SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT (RFC 4253 §11.1).
const NOT_ALLOWED: u32 = 1;
/// Without a cipher packets come in blocks of so many bytes, and are padded by at least half as many (RFC 4253 §6).
const BLOCK: usize = 8;
const MIN_PADDING: usize = 4;
/// The longest description.
const MAX_WHY: usize = 300;

/// A server's greeting and its disconnect, for `why`: printable ASCII of it.
pub fn disconnect(why: &str) -> Vec<u8> {
    let why: String = why.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_WHY).collect();
    let mut payload = vec![DISCONNECT];
    payload.extend(NOT_ALLOWED.to_be_bytes());
    // All are short by far: see above. A client takes the largest numbers for malformed.
    payload.extend(u32::try_from(why.len()).unwrap_or(u32::MAX).to_be_bytes());
    payload.extend(why.as_bytes());
    // No language.
    payload.extend(0_u32.to_be_bytes());
    let bare = 4 + 1 + payload.len();
    let padding = MIN_PADDING + (2 * BLOCK - (bare + MIN_PADDING) % BLOCK) % BLOCK;
    let mut message = b"SSH-2.0-agentd\r\n".to_vec();
    message.extend(u32::try_from(1 + payload.len() + padding).unwrap_or(u32::MAX).to_be_bytes());
    message.push(u8::try_from(padding).unwrap_or(u8::MAX));
    message.extend(payload);
    message.resize(message.len() + padding, 0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_whole_blocks_whatever_the_reason() {
        for length in 0..40 {
            let message = disconnect(&"x".repeat(length));
            let packet = message.strip_prefix(b"SSH-2.0-agentd\r\n").unwrap();
            let length_field = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
            let padding = usize::from(packet[4]);
            assert_eq!((length_field + 4, packet.len() % BLOCK), (packet.len(), 0), "{length}");
            assert!((MIN_PADDING..MIN_PADDING + BLOCK).contains(&padding), "{length}: {padding}");
            assert_eq!(length_field, 1 + 1 + 4 + 4 + length + 4 + padding, "{length}");
        }
    }
}
