//! Where the event file of a session stands that an earlier service wrote.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use agentd_policy::event_kind::EventKind;
use agentd_proto::v1::{Event, Exit};
use serde::Deserialize;

use crate::clock::parse_rfc3339;
use crate::text::bounded;

/// What is read at once, from the end; twice as much if that is not enough.
const PIECE: u64 = 64 << 10;

/// The end of an event file.
#[derive(Debug, Default, PartialEq)]
pub struct Tail {
    /// Bytes that hold whole events.
    pub length: u64,
    /// The last event's.
    pub seq: u64,
    /// The keeper's own number of the last event that it accounts for.
    pub source: u64,
    /// When its command was started, in microseconds since 1970.
    pub started: Option<u64>,
    /// How and when it ended, if it did, in microseconds since 1970.
    pub ended: Option<(Exit, u64)>,
}

#[derive(Deserialize)]
struct Mark {
    seq: u64,
    n: Option<u64>,
}

/// Reads the end of the file at `path`, and cuts off a line that is not whole. A file that is not there is empty.
pub fn read(path: &Path) -> io::Result<Tail> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        Err(error) => return Err(error),
    };
    let length = whole(&mut file)?;
    let mut piece = PIECE;
    loop {
        let start = length.saturating_sub(piece);
        if let Some(tail) = look(&mut file, start, length)? {
            return Ok(Tail { started: started(&mut file, length)?, ..tail });
        }
        piece *= 2;
    }
}

/// Cuts off what follows the last line.
fn whole(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        if let Some(at) = bytes(file, start, end)?.iter().rposition(|b| *b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

/// The tail, if what begins at `start` is enough to know it.
fn look(file: &mut File, start: u64, end: u64) -> io::Result<Option<Tail>> {
    let bytes = bytes(file, start, end)?;
    let mut lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    if start > 0 {
        // Half a line, most likely.
        lines.next();
    }
    let mut tail = Tail { length: end, ..Tail::default() };
    let mut found = start == 0;
    for (at, line) in lines.rev().enumerate() {
        let mark: Mark = serde_json::from_slice(line)?;
        if at == 0 {
            tail.seq = mark.seq;
        }
        // Its user may have applied changes since.
        if tail.ended.is_none() {
            tail.ended = ended(serde_json::from_slice(line)?);
        }
        if let Some(number) = mark.n {
            tail.source = number;
            found = true;
            break;
        }
    }
    Ok(found.then_some(tail))
}

/// That is among the first events, if it is on record.
fn started(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let bytes = bytes(file, 0, length.min(PIECE))?;
    let mut events = bytes.split(|b| *b == b'\n').map_while(|line| serde_json::from_slice(line).ok());
    let started = events.find(|event: &Event| EventKind::SessionStarted.is(&event.kind));
    Ok(started.map(|event| parse_rfc3339(&event.time)))
}

fn bytes(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn ended(event: Event) -> Option<(Exit, u64)> {
    let detail = event.lifecycle.filter(|_| EventKind::SessionEnded.is(&event.kind))?;
    let exit = Exit {
        reason: detail.reason.unwrap_or_default(),
        code: detail.code,
        signal: detail.signal,
        message: bounded(&detail.message.unwrap_or_default()),
    };
    Some((exit, parse_rfc3339(&event.time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_and_what_is_torn_is_cut() {
        let path = std::env::temp_dir().join(format!("agentd-tail-{}", std::process::id()));
        assert_eq!(read(&path).unwrap_or_default(), Tail::default());
        let own = "{\"seq\":3,\"kind\":\"session.attached\"}\n".repeat(9000);
        let lines = format!("{{\"seq\":1}}\n{{\"seq\":2,\"n\":7}}\n{own}");
        std::fs::write(&path, format!("{lines}{{\"seq\":4,\"n\":")).unwrap();
        let tail = read(&path).unwrap();
        assert_eq!((tail.seq, tail.source, tail.length), (3, 7, lines.len() as u64));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), lines.len() as u64);
        let end = r#"{"seq":4,"time":"2026-01-02T03:04:05.000000Z","kind":"session.ended","lifecycle":{"reason":"exited","code":3},"n":8}"#;
        std::fs::write(&path, format!("{lines}{end}\n")).unwrap();
        let (exit, at) = read(&path).unwrap().ended.unwrap();
        assert_eq!((exit.reason.as_str(), exit.code, at), ("exited", Some(3), 1_767_323_045_000_000));
        std::fs::write(&path, format!("{lines}nonsense\n")).unwrap();
        assert!(read(&path).is_err());
        std::fs::write(&path, "half a line").unwrap();
        assert_eq!(read(&path).unwrap(), Tail::default());
        std::fs::remove_file(path).unwrap();
    }
}
