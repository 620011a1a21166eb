//! `agentctl logs`: what a command has written, with nothing of it raw.

use agentd_proto::v1::log_chunk::Kind;
use agentd_proto::v1::{LogChunk, LogsRequest};
use serde_json::json;

use crate::cli::LogsArgs;
use crate::connect::Socket;
use crate::failure::{Failure, say};
use crate::pipes::{self, Stream};
use crate::show::{clean_lines, json, print};

/// Prints what the command has written, and with `-f` what it writes.
///
/// # Errors
/// As the daemon says.
pub async fn logs(socket: &Socket, args: LogsArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let request = LogsRequest { id: args.id, follow: args.follow, tail: args.tail };
    let mut stream = client.logs(request).await?.into_inner();
    let (mut out, mut err) = (Text::default(), Text::default());
    while let Some(LogChunk { kind }) = stream.message().await? {
        match kind {
            Some(Kind::Stdout(bytes)) => put(Stream::Stdout, &out.next(&bytes), args.json)?,
            Some(Kind::Stderr(bytes)) => put(Stream::Stderr, &err.next(&bytes), args.json)?,
            Some(Kind::Skipped(bytes)) if args.json => print(&(json(&json!({ "skipped": bytes }))? + "\n"))?,
            Some(Kind::Skipped(bytes)) => say(&format!("{bytes} bytes before this are not kept any more")),
            None => {}
        }
    }
    put(Stream::Stdout, &out.end(), args.json)?;
    put(Stream::Stderr, &err.end(), args.json)
}

fn put(stream: Stream, text: &str, as_json: bool) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    if as_json {
        return print(&(json(&json!({ "stream": stream.name(), "text": text }))? + "\n"));
    }
    let shown = clean_lines(text);
    pipes::write(stream.fd(), shown.as_bytes()).map_err(|error| Failure::output(stream.name(), &error))
}

/// Text out of bytes that were cut anywhere. A terminal's line ends become a file's.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of a character, or a carriage return.
    held: Vec<u8>,
}

impl Text {
    fn next(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        let rest = self.held.split_off(whole);
        let text = String::from_utf8_lossy(&self.held).replace("\r\n", "\n");
        self.held = rest;
        text
    }

    fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// How many bytes at the end cannot be judged before more come.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\r") {
        return 1;
    }
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let Some(start) = tail.iter().rposition(|b| *b >= 0xc0) else { return 0 };
    match std::str::from_utf8(&tail[start..]) {
        Err(error) if error.error_len().is_none() => tail.len() - start,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> String {
        let mut text = Text::default();
        let mut out: String = pieces.iter().map(|piece| text.next(piece)).collect();
        out += &text.end();
        out
    }

    #[test]
    fn cuts_do_not_matter() {
        assert_eq!(read(&[b"a\r", b"\nb\r", b"c"]), "a\nb\rc");
        assert_eq!(read(&["ü€".as_bytes()]), "ü€");
        assert_eq!(read(&[b"\xe2\x82", b"\xac", b"\xff\xe2"]), "€\u{fffd}\u{fffd}");
    }

    #[test]
    fn nothing_is_shown_raw() {
        let shown = clean_lines(&read(&[b"\x1b]52;c;x\x07\x9b6n\xc2\x9b\n"])).into_owned();
        assert_eq!(shown, "\\u{1b}]52;c;x\\u{7}\u{fffd}6n\\u{9b}\n");
    }

    proptest! {
        #[test]
        fn text_is_what_it_was(text in "[a-z\r\nü€\u{1f600}]{0,40}", cuts in proptest::collection::vec(0usize..100, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(read(&pieces), text.replace("\r\n", "\n"));
        }
    }
}
