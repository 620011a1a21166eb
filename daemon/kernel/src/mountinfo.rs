//! The mounts of a namespace (`proc_pid_mountinfo(5)`).

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The longest table that is read: `fs.mount-max` allows 100,000 mounts.
const MAX: u64 = 64 << 20;

/// Between the optional fields of a line and its file system.
const SEPARATOR: &[u8] = b" - ";

/// A mount as its line in the table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, which no other mount has as long as something holds it.
    pub id: u64,
    /// Where it is, below the reader's root.
    pub point: PathBuf,
    /// Whether no program in it may run.
    pub no_exec: bool,
    /// Type, source and options of its file system, with blanks between them.
    filesystem: Vec<u8>,
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
        Self::read_from(rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty())?.into())
    }

    /// Reads them, where the path /proc is the host's.
    ///
    /// # Errors
    /// As [`Mounts::read`].
    pub fn own() -> std::io::Result<Self> {
        Self::read_from(std::fs::File::open("/proc/self/mountinfo")?)
    }

    fn read_from(file: std::fs::File) -> std::io::Result<Self> {
        let mut bytes = Vec::with_capacity(16 << 10);
        file.take(MAX + 1).read_to_end(&mut bytes)?;
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
    // A blank within a path is escaped: the first hyphen alone ends the optional fields.
    let separator = line.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)?;
    let filesystem = line.get(separator + SEPARATOR.len()..)?;
    let complete = filesystem.iter().filter(|byte| **byte == b' ').count() >= 2;
    complete.then(|| Mount { id, point: unescape(point), no_exec, filesystem: filesystem.to_vec() })
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
    /// The type of its file system.
    pub fn kind(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.filesystem.split(|byte| *byte == b' ').next().unwrap_or_default())
    }

    /// The options of its file system, which for a v1 hierarchy of cgroups are its controllers too.
    pub fn options(&self) -> impl Iterator<Item = &[u8]> {
        let options = self.filesystem.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
        options.split(|byte| *byte == b',')
    }

    /// Whether it is the v1 hierarchy of `controller`.
    pub fn is_v1_hierarchy_of(&self, controller: &str) -> bool {
        self.kind() == "cgroup" && self.options().any(|option| option == controller.as_bytes())
    }

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
    fn hierarchies_are_found_by_type_and_controller() {
        let table = b"31 23 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            32 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mounts = Mounts::parse(table).unwrap();
        let kinds: Vec<_> = mounts.iter().map(Mount::kind).collect();
        assert_eq!(kinds, ["cgroup", "cgroup2"]);
        let memory = mounts.iter().next().unwrap();
        assert_eq!(memory.options().collect::<Vec<_>>(), [&b"rw"[..], b"memory"]);
        assert!(memory.is_v1_hierarchy_of("memory") && !memory.is_v1_hierarchy_of("mem"));
        assert!(!mounts.iter().any(|mount| mount.is_v1_hierarchy_of("pids")));
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_table() {
        for bad in [
            &b"x 0 0:1 / / rw - a b c\n"[..],
            b"1 0 0:1\n",
            b"1\n",
            b"1 0 0:1 / / rw a b c\n",
            b"1 0 0:1 / / rw - a b\n",
        ] {
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
