//! What a review of a session is made of: what is kept beside each overlay on disk, and the messages between the
//! launcher's worker and a client from [`FromClient::Review`](crate::offer::FromClient::Review) on.
//!
//! The worker names the session's workspaces: of each [`ToClient::Workspace`] and, as often as needed,
//! [`ToClient::Made`]; then [`ToClient::Open`]. The client opens them itself and sends [`Opened`], with a
//! descriptor of each in that order. The worker answers [`ToClient::Views`], or [`ToClient::Refused`], and both are
//! done.
//!
//! [`ToClient::Workspace`]: crate::offer::ToClient::Workspace
//! [`ToClient::Made`]: crate::offer::ToClient::Made
//! [`ToClient::Open`]: crate::offer::ToClient::Open
//! [`ToClient::Views`]: crate::offer::ToClient::Views
//! [`ToClient::Refused`]: crate::offer::ToClient::Refused

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::mount::{MAX_MOUNTS, MAX_POINTS};
use crate::names::{AbsPath, RelPath};
use crate::wire::Message;

/// What an overlay on disk means: 2 has `trusted.overlay.*` marks, with redirects; 1, without the file, had
/// `user.overlay.*` marks.
const FORMAT: &str = "2";
/// The longest [`About`], in bytes: as many names as there can be, each as long as it can be.
pub const MAX_ABOUT: usize = (MAX_POINTS + 2) * (4096 + 1);
/// The most names of one [`Made`](crate::offer::ToClient::Made): with paths of any length they fit a packet.
pub const MAX_MADE: usize = 32;

/// What lies beside an overlay's upper directory in the file [`About::NAME`], where only root writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The workspace, as the session had it.
    pub path: AbsPath,
    /// Which directory that was.
    pub top: Directory,
    /// The names in the upper directory that agentd made, without those that are links of the host's placeholder.
    pub made: Vec<RelPath>,
}

/// Which directory one is, among those that are there at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its file system (`st_dev`).
    pub device: u64,
    /// Its number there (`st_ino`).
    pub inode: u64,
}

/// Why a file is not an [`About`] of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AboutError {
    /// Of another version.
    #[error("it is not in format {FORMAT}")]
    Format,
    /// Cut, too long, or with something that is no number or path.
    #[error("it is malformed")]
    Form,
}

impl About {
    /// The file's name.
    pub const NAME: &str = "about";

    /// The file: [`FORMAT`], path, device, inode and names, each ended by NUL.
    pub fn encode<'a>(path: &AbsPath, top: Directory, made: impl Iterator<Item = &'a str>) -> Vec<u8> {
        let mut file = format!("{FORMAT}\0{path}\0{}\0{}\0", top.device, top.inode);
        made.for_each(|name| file.extend([name, "\0"]));
        file.into_bytes()
    }

    /// The one in `bytes`.
    ///
    /// # Errors
    /// [`AboutError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AboutError> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_ABOUT);
        let mut lines = text.and_then(|text| text.strip_suffix('\0')).ok_or(AboutError::Form)?.split('\0');
        if lines.next() != Some(FORMAT) {
            return Err(AboutError::Format);
        }
        let path = lines.next().and_then(|line| AbsPath::parse(line).ok()).ok_or(AboutError::Form)?;
        let mut number = || lines.next().and_then(decimal).ok_or(AboutError::Form);
        let top = Directory { device: number()?, inode: number()? };
        let made: Result<Vec<_>, _> = lines.map(RelPath::parse).collect();
        let made = made.ok().filter(|made| made.len() <= MAX_POINTS).ok_or(AboutError::Form)?;
        Ok(Self { path, top, made })
    }
}

/// A number as it is written: without a sign or zeros before it.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// One overlay workspace of a session, as the worker names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its path, as the session had it.
    pub path: AbsPath,
    /// Which directory that was.
    pub top: Directory,
    /// When the session was built: seconds since 1970, and nanoseconds.
    pub began: (i64, u32),
}

/// Client to worker: the workspaces, opened by `open(2)` with `O_PATH` or for reading, in the order in which they were
/// named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// How many there are; each has its descriptor.
    pub workspaces: u8,
}

impl Message for Opened {
    fn descriptors(&self) -> RangeInclusive<usize> {
        let count = usize::from(self.workspaces);
        count..=count.min(MAX_MOUNTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode_with, encode};
    use proptest::prelude::*;

    const GOOD: &[u8] = b"2\0/home/a/w\x0064768\x0042\0.env\0a/.netrc\0";

    #[test]
    fn what_is_written_is_read() {
        let about = About::decode(GOOD).unwrap();
        assert_eq!((about.path.as_str(), about.top), ("/home/a/w", Directory { device: 64768, inode: 42 }));
        let made = about.made.iter().map(RelPath::as_str);
        assert_eq!(made.clone().collect::<Vec<_>>(), [".env", "a/.netrc"]);
        assert_eq!(About::encode(&about.path, about.top, made), GOOD);
        assert!(About::decode(b"2\0/w\x001\x002\0").unwrap().made.is_empty());
    }

    #[test]
    fn another_form_is_refused() {
        for (bytes, error) in [
            (&b""[..], AboutError::Form),
            (b"\0", AboutError::Format),
            (b"1\0/w\x001\x002\0", AboutError::Format),
            (b"2\0w\x001\x002\0", AboutError::Form),
            (b"2\0/w\x001\x002", AboutError::Form),
            (b"2\0/w\x001\0", AboutError::Form),
            (b"2\0/w\x00+1\x002\0", AboutError::Form),
            (b"2\0/w\x0001\x002\0", AboutError::Form),
            (b"2\0/w\x001\x00-2\0", AboutError::Form),
            (b"2\0/w\x001\x002\0\0", AboutError::Form),
            (b"2\0/w\x001\x002\0/etc\0", AboutError::Form),
            (b"2\0/w\x001\x002\0a/../b\0", AboutError::Form),
            (b"2\0/w\xff\x001\x002\0", AboutError::Form),
        ] {
            assert_eq!(About::decode(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        let many = [&b"2\0/w\x001\x002\0"[..], &b"x\0".repeat(MAX_POINTS + 1)].concat();
        assert_eq!(About::decode(&many), Err(AboutError::Form));
    }

    #[test]
    fn workspaces_have_their_descriptors() {
        let packet = |workspaces| encode(&Opened { workspaces }).unwrap();
        assert!(decode_with::<Opened, _>(&packet(2), vec![1, 2]).is_ok());
        for (said, sent) in [(2, 1), (1, 2), (0, 1), (65, 65), (255, 253)] {
            assert!(decode_with::<Opened, _>(&packet(said), vec![(); sent]).is_err(), "{said} {sent}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            About::decode(&bytes).ok();
            decode_with::<Opened, ()>(&bytes, vec![]).ok();
        }
    }
}
