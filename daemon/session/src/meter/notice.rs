//! What a meter sends to the keeper: letters, and behind the last one, if it is that, why the meter failed.

use std::os::fd::OwnedFd;

use agentd_policy::limit_kind::LimitKind;

/// The longest reason of a failure, in bytes.
const MAX_REASON: usize = 200;

/// Of what a session has too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Bytes,
    /// Files, directories and links.
    Inodes,
    /// It went on to grow when the file system was nearly full.
    Reserve,
}

impl Excess {
    /// The limit, for events.
    pub fn limit(self) -> LimitKind {
        match self {
            Self::Bytes => LimitKind::Disk,
            Self::Inodes => LimitKind::Inodes,
            Self::Reserve => LimitKind::DiskReserve,
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Bytes => b'B',
            Self::Inodes => b'I',
            Self::Reserve => b'R',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        [Self::Bytes, Self::Inodes, Self::Reserve].into_iter().find(|excess| excess.letter() == letter)
    }
}

/// What a meter has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The kernel refuses the session more.
    Full(Excess),
    /// The session is to end. The last that a meter says.
    Over(Excess),
    /// Nothing can be said of it any more. The last that a meter says.
    Failed(String),
}

impl Notice {
    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Full(excess) => vec![excess.letter().to_ascii_lowercase()],
            Self::Over(excess) => vec![excess.letter()],
            Self::Failed(reason) => {
                let reason = reason.as_bytes();
                [b"F", reason.get(..MAX_REASON).unwrap_or(reason)].concat()
            }
        }
    }
}

/// What a meter has said since. Without a writer there is nothing to wait for.
pub fn read(notices: &OwnedFd) -> Vec<Notice> {
    let mut bytes = [0; 2 * MAX_REASON];
    let mut rest = match rustix::io::read(notices, &mut bytes) {
        Ok(count) => &bytes[..count],
        Err(errno) => return vec![Notice::Failed(format!("its pipe: {errno}"))],
    };
    let mut found = Vec::new();
    while let Some((letter, behind)) = rest.split_first() {
        let notice = match (letter, Excess::of(letter.to_ascii_uppercase())) {
            (b'F', _) => Notice::Failed(String::from_utf8_lossy(behind).into_owned()),
            (letter, Some(excess)) if letter.is_ascii_lowercase() => Notice::Full(excess),
            (_, Some(excess)) => Notice::Over(excess),
            (_, None) => Notice::Failed("it sent what is no notice".into()),
        };
        found.push(notice);
        rest = behind;
        if !matches!(found.last(), Some(Notice::Full(_))) {
            break;
        }
    }
    if found.is_empty() {
        found.push(Notice::Failed("it ended without a word".into()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(bytes: &[u8]) -> Vec<Notice> {
        let (notices, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, bytes).unwrap();
        drop(writer);
        read(&notices)
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_passes() {
        for notice in [
            Notice::Full(Excess::Bytes),
            Notice::Full(Excess::Inodes),
            Notice::Over(Excess::Bytes),
            Notice::Over(Excess::Inodes),
            Notice::Over(Excess::Reserve),
            Notice::Failed("counting: Operation not permitted".into()),
        ] {
            assert_eq!(through(&notice.to_bytes()), [notice]);
        }
        let long = Notice::Failed("x".repeat(1000));
        assert_eq!(through(&long.to_bytes()), [Notice::Failed("x".repeat(MAX_REASON))]);
        let several = [Notice::Full(Excess::Bytes), Notice::Full(Excess::Inodes), Notice::Failed("b".into())];
        assert_eq!(through(b"biFb"), several);
        for bad in [&b"x"[..], b"\0"] {
            assert_eq!(through(bad), [Notice::Failed("it sent what is no notice".into())]);
        }
        let (notices, _) = rustix::pipe::pipe().unwrap();
        assert_eq!(read(&notices), [Notice::Failed("it ended without a word".into())]);
    }
}
