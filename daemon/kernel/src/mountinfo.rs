//! The mounts of a namespace (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The longest table that is read: `fs.mount-max` allows 100,000 mounts.
const MAX: u64 = 64 << 20;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, which no other mount has as long as something holds it.
    pub id: u64,
    /// Where it is, below the reader's root.
    pub point: PathBuf,
    /// Whether no program in it may run.
    pub no_exec: bool,
}

/// All mounts of this process's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads them. `proc` is a directory of /proc.
    ///
    /// # Errors
    /// As `open(2)` and `read(2)`; a table that is too long or malformed.
    pub fn read(proc: BorrowedFd<'_>) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty())?;
        let mut bytes = Vec::with_capacity(16 << 10);
        std::fs::File::from(file).take(MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX {
            return Err(std::io::Error::other("the table of mounts is too long"));
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> std::io::Result<Self> {
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let mounts = lines.map(parse_line).collect::<Option<Vec<_>>>();
        mounts.map(Self).ok_or_else(|| std::io::Error::other("malformed table of mounts"))
    }

    /// All of them, in the kernel's order: a mount comes after the one that it lies on.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// Whether the mount `id` is in this namespace. It says something only while the caller holds that mount.
    pub fn contains(&self, id: u64) -> bool {
        self.0.iter().any(|mount| mount.id == id)
    }

    /// A mount below `path`, but not at it.
    pub fn below(&self, path: &Path) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.point != path && mount.point.starts_with(path))
    }

    /// A mount at `path`.
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.point == path)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mut fields = fields.skip(3);
    let (point, options) = (fields.next()?, fields.next()?);
    let no_exec = options.split(|b| *b == b',').any(|option| option == b"noexec");
    Some(Mount { id, point: unescape(point), no_exec })
}

/// A path as the table writes it: three octal digits behind a backslash stand for a byte.
fn unescape(field: &[u8]) -> PathBuf {
    if !field.contains(&b'\\') {
        return PathBuf::from(OsString::from_vec(field.to_vec()));
    }
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let digits = field.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(escaped) if *byte == b'\\' => {
                out.push(escaped);
                at += 4;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

impl Mount {
    /// The path as bytes.
    pub fn point_bytes(&self) -> &[u8] {
        self.point.as_os_str().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const TABLE: &[u8] = b"1 0 0:1 / / ro,nosuid,noexec - tmpfs none rw\n\
        2 1 8:1 /usr /usr ro,nosuid,nodev shared:1 - ext4 /dev/vda rw\n\
        30 1 8:1 /x /home/a\\040b\\134 rw,nosuid - ext4 /dev/vda rw\n\
        31 30 8:1 /x /home/a\\040b\\134/in rw - ext4 /dev/vda rw\n";

    #[test]
    fn each_line_is_a_mount() {
        let mounts = Mounts::parse(TABLE).unwrap();
        let points: Vec<_> = mounts.iter().map(|m| (m.id, m.point.to_str().unwrap(), m.no_exec)).collect();
        let odd = "/home/a b\\";
        assert_eq!(points[..3], [(1, "/", true), (2, "/usr", false), (30, odd, false)]);
        assert!(mounts.contains(30) && !mounts.contains(3));
        assert_eq!(mounts.below(Path::new(odd)).unwrap().id, 31);
        assert_eq!(mounts.at(Path::new("/usr")).unwrap().id, 2);
        // A name that only begins alike is elsewhere.
        assert!(mounts.below(Path::new("/us")).is_none() && mounts.below(Path::new("/usr")).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_table() {
        for bad in [&b"x 0 0:1 / / rw - a b c\n"[..], b"1 0 0:1\n", b"1\n"] {
            assert!(Mounts::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ourselves() {
        let proc = crate::procfs::open().unwrap();
        let mounts = Mounts::read(proc.as_fd()).unwrap();
        let root = crate::mount::place("/").unwrap();
        assert!(mounts.contains(crate::mount::identity(root.as_fd()).unwrap().mount));
    }
}
