//! Commits and trees of a repository, loose and packed (gitformat-pack(5)). What is malformed or too much is an error:
//! nobody concludes that there is nothing in it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit as inflate;
use rustix::fs::{Dir, Mode, OFlags};

use super::walk::{DIRECTORY, read_file};

/// The longest object that is read.
const MAX_OBJECT: usize = 16 << 20;
/// How many deltas lie on each other (git's own default is 50, its bound 4095).
const MAX_DELTAS: u32 = 512;
/// The most packs.
const MAX_PACKS: usize = 1024;

/// An object's name.
pub type Name = Vec<u8>;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Commit,
    Tree,
    Blob,
    /// A tag with a message.
    Tag,
}

/// Why one cannot be read.
#[derive(Debug)]
pub struct Unreadable;

/// An entry of a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// Type and permissions.
    pub mode: u32,
    pub name: &'a [u8],
    /// The object that it is.
    pub object: &'a [u8],
}

struct Pack {
    index: OwnedFd,
    data: OwnedFd,
    count: u32,
}

/// The objects of one repository.
pub struct Objects {
    loose: OwnedFd,
    packs: Vec<Pack>,
    hash: usize,
}

impl Objects {
    /// Of the repository whose directory is open; object names have `hash` bytes.
    pub fn open(git: BorrowedFd<'_>, hash: usize) -> Option<Self> {
        let loose = rustix::fs::openat(git, "objects", DIRECTORY, Mode::empty()).ok()?;
        let mut packs = Vec::new();
        if let Ok(dir) = rustix::fs::openat(&loose, "pack", DIRECTORY, Mode::empty()) {
            let listed = rustix::fs::openat(&dir, ".", DIRECTORY, Mode::empty()).ok()?;
            for entry in Dir::new(listed).ok()? {
                let entry = entry.ok()?;
                let name = entry.file_name().to_bytes();
                let Some(stem) = name.strip_suffix(b".idx") else { continue };
                if packs.len() >= MAX_PACKS {
                    return None;
                }
                let index = open_file(dir.as_fd(), name)?;
                let data = open_file(dir.as_fd(), &[stem, b".pack"].concat())?;
                if read_at(&index, 0, 8)? != b"\xfftOc\0\0\0\x02" {
                    return None;
                }
                let count = number(&read_at(&index, 8 + 255 * 4, 4)?)?;
                packs.push(Pack { index, data, count });
            }
        }
        Some(Self { loose, packs, hash })
    }

    /// The object of that name.
    pub fn read(&self, name: &[u8]) -> Result<(Kind, Vec<u8>), Unreadable> {
        self.find(name, 0).ok_or(Unreadable)
    }

    fn find(&self, name: &[u8], deltas: u32) -> Option<(Kind, Vec<u8>)> {
        if let Some(found) = self.loose(name) {
            return Some(found);
        }
        self.packs.iter().find_map(|pack| {
            let offset = pack.offset(name, self.hash)?;
            self.packed(pack, offset, deltas)
        })
    }

    fn loose(&self, name: &[u8]) -> Option<(Kind, Vec<u8>)> {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let (dir, file) = hex.split_at_checked(2)?;
        let dir = rustix::fs::openat(&self.loose, dir, DIRECTORY, Mode::empty()).ok()?;
        let bytes = read_file(dir.as_fd(), file.as_bytes(), MAX_OBJECT as u64).ok()??;
        let bytes = inflate(&bytes, MAX_OBJECT).ok()?;
        let end = bytes.iter().position(|b| *b == 0)?;
        let kind = match bytes.get(..end)?.split(|b| *b == b' ').next()? {
            b"commit" => Kind::Commit,
            b"tree" => Kind::Tree,
            b"blob" => Kind::Blob,
            b"tag" => Kind::Tag,
            _ => return None,
        };
        Some((kind, bytes.get(end + 1..)?.to_vec()))
    }

    fn packed(&self, pack: &Pack, offset: u64, deltas: u32) -> Option<(Kind, Vec<u8>)> {
        if deltas > MAX_DELTAS {
            return None;
        }
        let head = read_at(&pack.data, offset, 64)?;
        let first = *head.first()?;
        let (mut size, mut shift, mut at) = (u64::from(first & 15), 4_u32, 1);
        let mut byte = first;
        while byte & 0x80 != 0 {
            byte = *head.get(at)?;
            size |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            at += 1;
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_OBJECT)?;
        let base = match first >> 4 & 7 {
            1 => return Some((Kind::Commit, pack.inflate(offset, at, size)?)),
            2 => return Some((Kind::Tree, pack.inflate(offset, at, size)?)),
            3 => return Some((Kind::Blob, Vec::new())),
            4 => return Some((Kind::Tag, pack.inflate(offset, at, size)?)),
            6 => {
                let (mut back, mut more) = (0_u64, true);
                let mut follows = false;
                while more {
                    let byte = *head.get(at)?;
                    back = if follows { back.checked_add(1)? } else { back };
                    back = back.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
                    (more, follows) = (byte & 0x80 != 0, true);
                    at += 1;
                }
                self.packed(pack, offset.checked_sub(back).filter(|base| *base < offset)?, deltas + 1)?
            }
            7 => {
                let name = head.get(at..at + self.hash)?.to_vec();
                at += self.hash;
                self.find(&name, deltas + 1)?
            }
            _ => return None,
        };
        // Content is of no interest, nor what is made of it.
        if base.0 == Kind::Blob {
            return Some(base);
        }
        let delta = pack.inflate(offset, at, size)?;
        Some((base.0, apply(&base.1, &delta)?))
    }
}

impl Pack {
    /// Where the object `name` is.
    fn offset(&self, name: &[u8], hash: usize) -> Option<u64> {
        let first = u64::from(*name.first()?);
        let table = 8 + 256 * 4;
        let bound = |number_of: u64| number(&read_at(&self.index, 8 + number_of * 4, 4)?);
        let (mut low, mut high) =
            (if first == 0 { 0 } else { bound(first - 1)? }, bound(first)?.min(self.count));
        let width = hash as u64;
        while low < high {
            let middle = low + (high - low) / 2;
            let found = read_at(&self.index, table + u64::from(middle) * width, hash)?;
            match found.as_slice().cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let count = u64::from(self.count);
                    let small = table + count * (width + 4);
                    let offset = number(&read_at(&self.index, small + u64::from(middle) * 4, 4)?)?;
                    if offset & 0x8000_0000 == 0 {
                        return Some(u64::from(offset));
                    }
                    let large = small + count * 4 + u64::from(offset & 0x7fff_ffff) * 8;
                    return Some(u64::from_be_bytes(read_at(&self.index, large, 8)?.try_into().ok()?));
                }
            }
        }
        None
    }

    fn inflate(&self, offset: u64, skip: usize, size: usize) -> Option<Vec<u8>> {
        // What cannot be made smaller is stored, in blocks with a few bytes each.
        let most = size + size / 64 + 1024;
        let bytes = read_up_to(&self.data, offset + skip as u64, most)?;
        inflate(&bytes, size + 1).ok().filter(|out| out.len() == size)
    }
}

/// What `delta` makes of `base`.
fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut delta = delta;
    if size(&mut delta)? != base.len() {
        return None;
    }
    let length = size(&mut delta).filter(|length| *length <= MAX_OBJECT)?;
    let mut out = Vec::with_capacity(length);
    while let Some((op, rest)) = delta.split_first() {
        delta = rest;
        if op & 0x80 == 0 {
            let (new, rest) = delta.split_at_checked(usize::from(*op)).filter(|_| *op != 0)?;
            out.extend_from_slice(new);
            delta = rest;
        } else {
            let mut part = |bits: std::ops::Range<u32>| {
                let mut value = 0_usize;
                for (bit, shift) in bits.zip((0..).step_by(8)) {
                    if op >> bit & 1 != 0 {
                        let (byte, rest) = delta.split_first()?;
                        value |= usize::from(*byte) << shift;
                        delta = rest;
                    }
                }
                Some(value)
            };
            let from = part(0..4)?;
            let count = match part(4..7)? {
                0 => 0x10000,
                count => count,
            };
            out.extend_from_slice(base.get(from..from.checked_add(count)?)?);
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

fn size(bytes: &mut &[u8]) -> Option<usize> {
    let (mut value, mut shift) = (0_usize, 0_u32);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 56)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

/// The entries of a tree; `None` for one that is malformed.
pub fn tree(bytes: &[u8], hash: usize) -> Option<Vec<TreeEntry<'_>>> {
    let (mut rest, mut entries) = (bytes, Vec::new());
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ')?;
        let mode = std::str::from_utf8(rest.get(..space)?).ok()?;
        let mode = u32::from_str_radix(mode, 8).ok()?;
        rest = rest.get(space + 1..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        let (name, object) = (rest.get(..end)?, rest.get(end + 1..end + 1 + hash)?);
        rest = rest.get(end + 1 + hash..)?;
        entries.push(TreeEntry { mode, name, object });
    }
    Some(entries)
}

/// A commit's tree and parents.
pub fn commit(bytes: &[u8]) -> Option<(Name, Vec<Name>)> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let first = lines.next()?.strip_prefix(b"tree ")?;
    let parents = lines.map_while(|line| line.strip_prefix(b"parent ")).map(name).collect::<Option<_>>()?;
    Some((name(first)?, parents))
}

/// An object's name in hexadecimal digits.
pub fn name(text: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    let digits = text.len() == 40 || text.len() == 64;
    if !digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    (rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile).then_some(file)
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn read_at(file: &OwnedFd, offset: u64, count: usize) -> Option<Vec<u8>> {
    let bytes = read_up_to(file, offset, count)?;
    // The head of a pack's last object may be shorter than what is asked for.
    (bytes.len() == count || count == 64).then_some(bytes)
}

fn read_up_to(file: &OwnedFd, offset: u64, count: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut at) = (vec![0; count], 0);
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, offset.checked_add(at as u64)?).ok()? {
            0 => break,
            more => at += more,
        }
    }
    bytes.truncate(at);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deltas_are_applied() {
        // Copy 3 from 1, insert "xy", copy 2 from 0.
        let delta = [5, 7, 0x91, 1, 3, 2, b'x', b'y', 0x90, 2];
        assert_eq!(apply(b"abcde", &delta).unwrap(), b"bcdxyab");
        assert_eq!(apply(b"abcd", &delta), None);
        assert_eq!(apply(b"abcde", &[5, 7, 0x91, 4, 3]), None);
    }

    #[test]
    fn trees_and_commits_are_read() {
        let bytes = [b"100644 a\0".as_slice(), &[1; 20], b"160000 sub\0", &[2; 20]].concat();
        let entries = tree(&bytes, 20).unwrap();
        assert_eq!((entries[0].name, entries[1].mode), (&b"a"[..], 0o160_000));
        assert_eq!(tree(&bytes[..40], 20), None);
        let hex = "12".repeat(20);
        let text = format!("tree {hex}\nparent {hex}\nparent {hex}\nauthor x\n\nparent {hex}\n");
        assert_eq!(commit(text.as_bytes()), Some((vec![0x12; 20], vec![vec![0x12; 20]; 2])));
    }

    proptest! {
        #[test]
        fn nonsense_ends(base in any::<Vec<u8>>(), delta in any::<Vec<u8>>()) {
            let _ = apply(&base, &delta);
            let _ = tree(&delta, 20);
            let _ = commit(&delta);
        }
    }
}
