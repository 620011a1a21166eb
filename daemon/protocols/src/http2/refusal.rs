//! A refusal as clients of HTTP/2 understand it.

use super::frame::{END_HEADERS, END_STREAM, Frame, kind};

/// The longest text of one.
const MAX_WHY: usize = 300;
/// PERMISSION_DENIED of gRPC.
const DENIED: &str = "7";
/// HPACK: fields that no table takes (RFC 7541 §6.2.2), by a name of the static table or their own.
const STATUS: [u8; 1] = [0x08];
const CONTENT_TYPE: [u8; 2] = [0x0f, 0x10];
/// `:status: 200`, whole.
const STATUS_200: u8 = 0x88;
/// PROTOCOL_ERROR (RFC 9113 §7).
const PROTOCOL_ERROR: u32 = 1;

/// The response on `stream`, 403 or what gRPC has for it, and the end of the connection behind it. On stream 0 the end
/// alone.
pub fn refusal(stream: u32, grpc: bool, rule: &str, why: &str) -> Vec<u8> {
    let (rule, why) = (plain(rule), plain(why));
    let mut frames = Vec::new();
    let mut error = PROTOCOL_ERROR;
    if stream > 0 {
        error = 0;
        if grpc {
            let mut block = vec![STATUS_200];
            field(&mut block, &CONTENT_TYPE, "application/grpc");
            own_field(&mut block, "grpc-status", DENIED);
            own_field(&mut block, "grpc-message", &format!("agentd: {why} ({rule})").replace('%', "%25"));
            frames.extend(Frame::write(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block));
        } else {
            let mut block = Vec::new();
            field(&mut block, &STATUS, "403");
            field(&mut block, &CONTENT_TYPE, "text/plain");
            own_field(&mut block, "x-agentd-reason", &rule);
            frames.extend(Frame::write(kind::HEADERS, END_HEADERS, stream, &block));
            let body = format!("agentd: {why}\n");
            frames.extend(Frame::write(kind::DATA, END_STREAM, stream, body.as_bytes()));
        }
    }
    let mut farewell = stream.to_be_bytes().to_vec();
    farewell.extend(error.to_be_bytes());
    farewell.extend(format!("agentd: {why} ({rule})").as_bytes());
    frames.extend(Frame::write(kind::GOAWAY, 0, 0, &farewell));
    frames
}

fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().map(plain).take(MAX_WHY).collect()
}

/// A field by `name`, as the static table has it.
fn field(block: &mut Vec<u8>, name: &[u8], value: &str) {
    block.extend(name);
    text(block, value);
}

fn own_field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    text(block, name);
    text(block, value);
}

/// A text as it is, with its length in front (RFC 7541 §5.2).
fn text(block: &mut Vec<u8>, value: &str) {
    const MASK: u8 = 0x7f;
    const CONTINUES: u8 = 0x80;
    match u8::try_from(value.len()) {
        Ok(short) if short < MASK => block.push(short),
        _ => {
            let mut rest = value.len() - usize::from(MASK);
            block.push(MASK);
            while rest >= usize::from(CONTINUES) {
                block.push(rest.to_le_bytes()[0] | CONTINUES);
                rest /= usize::from(CONTINUES);
            }
            block.push(rest.to_le_bytes()[0]);
        }
    }
    block.extend(value.as_bytes());
}
