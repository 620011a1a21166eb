//! Reads files of output: what they hold, and where they end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Take};
use std::path::Path;

use agentd_policy::wire::frame;

use super::{Frame, HEAD, HEAD_BYTES, MAGIC};

/// Reads kept output.
pub struct Reader {
    /// The next one last, each with the place of its first byte.
    files: Vec<(u64, BufReader<Take<File>>)>,
    at: u64,
    from: u64,
    end: u64,
}

impl Reader {
    /// Of `files`, the last one first, from `place` up to `end`.
    pub(super) fn new(files: Vec<(u64, BufReader<Take<File>>)>, from: u64, end: u64) -> Self {
        Self { files, at: 0, from, end }
    }

    /// The next piece; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        while let Some((base, file)) = self.files.last_mut() {
            self.at = self.at.max(*base);
            let mut header = [0; frame::HEADER];
            match file.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.files.pop();
                    continue;
                }
                Err(error) => return Err(error),
            }
            let (kind, len) = frame::parse(header).ok_or(io::ErrorKind::InvalidData)?;
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes)?;
            let piece = Frame { at: self.at, kind, bytes: bytes.into() };
            self.at = piece.end();
            if piece.at >= self.end {
                return Ok(None);
            }
            let wanted = (kind != frame::DRAINED).then(|| piece.from(self.from)).flatten();
            if let Some(mut piece) = wanted {
                piece.bytes.truncate(usize::try_from(self.end - piece.at).unwrap_or(usize::MAX));
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

pub(super) struct Scanned {
    pub(super) base: u64,
    pub(super) end: u64,
    pub(super) length: u64,
    pub(super) drained: bool,
}

/// The place of a file's first byte; `None` if it is not written yet.
pub(super) fn head(file: &mut impl Read) -> io::Result<Option<u64>> {
    let mut head = [0; HEAD_BYTES];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (magic, base) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of output"));
    }
    Ok(Some(u64::from_le_bytes(base.try_into().map_err(|_| io::ErrorKind::InvalidData)?)))
}

/// Reads a file through, and cuts off what is not a whole frame at its end.
pub(super) fn scan(path: &Path) -> io::Result<Option<Scanned>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    let mut reader = BufReader::new(&file);
    let Some(base) = head(&mut reader)? else { return Ok(None) };
    let mut scanned = Scanned { base, end: base, length: HEAD, drained: false };
    while scanned.length + frame::HEADER as u64 <= size && !scanned.drained {
        let mut header = [0; frame::HEADER];
        reader.read_exact(&mut header)?;
        let Some((kind, len)) = frame::parse(header) else { break };
        let next = scanned.length + (frame::HEADER + len) as u64;
        if next > size || !matches!(kind, frame::STDOUT | frame::STDERR | frame::DRAINED) {
            break;
        }
        reader.seek_relative(i64::try_from(len).map_err(io::Error::other)?)?;
        scanned.length = next;
        scanned.end += len as u64;
        scanned.drained = kind == frame::DRAINED;
    }
    if scanned.length < size {
        file.set_len(scanned.length)?;
    }
    Ok(Some(scanned))
}
