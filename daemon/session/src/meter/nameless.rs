//! What a session's overlays hold without a name: files that were unlinked, or never linked, and are open, mapped, run
//! or stood in, or on their way through a Unix socket and in nobody's table.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use agentd_kernel::parked;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatVfsMountFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::Usage;

// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY: i128 = 0x794c_7630;

/// How far sockets that lie in sockets' queues are looked into.
const MAX_DEPTH: u32 = 16;
/// The most descriptors of one queue that are held at once.
const MAX_HELD: usize = 512;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nameless {
    /// Of files that some process has, or will have when it reads from a socket.
    pub usage: Usage,
    /// Descriptors in sockets' queues that could not be looked at, whatever they are of.
    pub parked: u64,
}

/// Looks at what `processes` have; counting ends beyond `enough`. While they run, files change hands meanwhile, so that
/// only what is found in a group that is `frozen` is all; only then it is looked into sockets' queues.
///
/// # Errors
/// If a process that is there cannot be looked at.
pub fn find(
    proc: BorrowedFd<'_>,
    processes: &[i32],
    frozen: bool,
    enough: Usage,
) -> rustix::io::Result<Nameless> {
    let mut scan = Scan { proc, enough, frozen, seen: HashSet::new(), found: Nameless::default() };
    for process in processes {
        gone(scan.process(*process))?;
        if scan.is_over() {
            break;
        }
    }
    Ok(scan.found)
}

struct Scan<'a> {
    proc: BorrowedFd<'a>,
    enough: Usage,
    frozen: bool,
    /// Files that are counted, and sockets that were looked into: device and number.
    seen: HashSet<(u32, u32, u64)>,
    found: Nameless,
}

impl Scan<'_> {
    fn is_over(&self) -> bool {
        self.found.usage.exceeds(self.enough).is_some()
    }

    fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.proc, path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn process(&mut self, process: i32) -> rustix::io::Result<()> {
        for name in ["exe", "cwd", "root"] {
            gone(self.file(&format!("{process}/{name}")).map(drop))?;
        }
        gone(self.mappings(process))?;
        let threads = self.open(&format!("{process}/task"), OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::new(threads)? {
            let entry = entry?;
            let Some(thread) = entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // A thread may have a table of its own, and the first one may be gone.
            if thread == process || !agentd_kernel::process::share_descriptors(process, thread) {
                gone(self.table(process, thread))?;
            }
        }
        Ok(())
    }

    /// The descriptors of one thread.
    fn table(&mut self, process: i32, thread: i32) -> rustix::io::Result<()> {
        let path = format!("{process}/task/{thread}");
        let table = self.open(&format!("{path}/fd"), OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::new(table)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().ok().filter(|name| name.parse::<u32>().is_ok())
            else {
                continue;
            };
            let kind = gone(self.file(&format!("{path}/fd/{number}")))?;
            if kind == Some(FileType::Socket) {
                let parked = gone(self.parked(&format!("{path}/fdinfo/{number}")))?.unwrap_or(0);
                let copy = || parked::descriptor_of(process, thread, number.parse().unwrap_or(u32::MAX)).ok();
                if parked > 0 {
                    self.queue(copy, parked, 0)?;
                }
            }
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// What is mapped of files that have no name.
    fn mappings(&mut self, process: i32) -> rustix::io::Result<()> {
        let maps = self.open(&format!("{process}/maps"), OFlags::RDONLY)?;
        let mut lines = BufReader::with_capacity(64 << 10, std::fs::File::from(maps));
        let mut line = Vec::new();
        let mut last = Vec::new();
        loop {
            line.clear();
            let count = lines.read_until(b'\n', &mut line).map_err(|e| errno(&e))?;
            if count == 0 {
                return Ok(());
            }
            let Some(mapping) = line.strip_suffix(b" (deleted)\n") else { continue };
            let mut fields = mapping.split(|byte| *byte == b' ');
            let Some(link) = fields.next().and_then(link_of) else { continue };
            // Device and number: neighbours are often of one file.
            let file: Vec<u8> = fields.skip(2).take(2).flatten().copied().collect();
            if file == last {
                continue;
            }
            last = file;
            gone(self.file(&format!("{process}/map_files/{link}")).map(drop))?;
            if self.is_over() {
                return Ok(());
            }
        }
    }

    /// Counts the file that a link of /proc leads to, if it is of an overlay and has no name. What it is.
    fn file(&mut self, path: &str) -> rustix::io::Result<FileType> {
        // Nobody is asked elsewhere, as by a network file system that may not answer.
        let flags = AtFlags::from_bits_retain(rustix::fs::AtFlags::STATX_DONT_SYNC.bits());
        let stat = rustix::fs::statx(self.proc, path, flags, StatxFlags::BASIC_STATS)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let is_nameless = stat.stx_nlink == 0 && !matches!(kind, FileType::Socket | FileType::Unknown);
        if is_nameless && self.is_of_overlay(path)? && self.seen.insert(identity(&stat)) {
            let bytes = stat.stx_blocks.saturating_mul(512);
            self.found.usage = self.found.usage + Usage { bytes, inodes: 1 };
        }
        Ok(kind)
    }

    /// Looks at the descriptors in a socket's queue, `parked` of them. What cannot be looked at is counted.
    fn queue(
        &mut self,
        socket: impl FnOnce() -> Option<OwnedFd>,
        parked: u64,
        depth: u32,
    ) -> rustix::io::Result<()> {
        let mut seen = 0_u64;
        if let Some(socket) = (self.frozen && depth < MAX_DEPTH).then(socket).flatten() {
            let mut found = Vec::new();
            // Many have the same socket.
            let stat = rustix::fs::statx(&socket, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
            if !self.seen.insert(identity(&stat)) {
                return Ok(());
            }
            // What cannot be looked at is not seen.
            parked::peek(socket.as_fd(), parked, |descriptors| {
                seen = seen.saturating_add(descriptors.len() as u64);
                found.extend(descriptors);
                if found.len() > MAX_HELD { Err(std::io::Error::other("more than are held")) } else { Ok(()) }
            })
            .ok();
            for descriptor in found {
                self.descriptor(descriptor, depth)?;
            }
        }
        self.found.parked = self.found.parked.saturating_add(parked.saturating_sub(seen));
        Ok(())
    }

    /// One that lay in a queue, by a copy of ours.
    fn descriptor(&mut self, descriptor: OwnedFd, depth: u32) -> rustix::io::Result<()> {
        let number = descriptor.as_raw_fd();
        if self.file(&format!("self/fd/{number}"))? != FileType::Socket {
            return Ok(());
        }
        match self.parked(&format!("self/fdinfo/{number}"))? {
            0 => Ok(()),
            parked => self.queue(|| Some(descriptor), parked, depth + 1),
        }
    }

    /// Whether it is one that can be written to: what a view shows was unlinked outside.
    fn is_of_overlay(&self, path: &str) -> rustix::io::Result<bool> {
        let file = self.open(path, OFlags::PATH)?;
        if i128::from(rustix::fs::fstatfs(&file)?.f_type) != OVERLAY {
            return Ok(false);
        }
        Ok(!rustix::fs::fstatvfs(&file)?.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// How many descriptors lie in a socket's queue, or in those of connections that it has not accepted.
    fn parked(&self, path: &str) -> rustix::io::Result<u64> {
        let info = self.open(path, OFlags::RDONLY)?;
        let mut bytes = [0; 1024];
        let count = rustix::io::read(info.as_fd(), &mut bytes)?;
        let lines = bytes[..count].split(|byte| *byte == b'\n');
        let parked = lines.filter_map(|line| line.strip_prefix(b"scm_fds:")).next();
        let parked = parked.and_then(|text| std::str::from_utf8(text).ok()).map(str::trim);
        Ok(parked.and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}

fn identity(stat: &Statx) -> (u32, u32, u64) {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// The name in map_files of a range as maps has it, where small numbers begin with zeros.
fn link_of(range: &[u8]) -> Option<String> {
    let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(format!("{:x}-{:x}", number(start)?, number(end)?))
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// What has gone meanwhile has nothing.
fn gone<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::SRCH | Errno::BADF) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lose_their_zeros() {
        assert_eq!(link_of(b"00400000-00401000").as_deref(), Some("400000-401000"));
        assert_eq!(link_of(b"7f0000000000-7f0000001000").as_deref(), Some("7f0000000000-7f0000001000"));
        assert_eq!(link_of(b"x-y"), None);
    }

    #[test]
    fn descriptors_in_a_queue_are_counted_and_other_files_are_not_an_overlays() {
        use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType};
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let proc = agentd_kernel::procfs::open().unwrap();
        let own = [i32::try_from(std::process::id()).unwrap()];
        let all = Usage { bytes: u64::MAX, inodes: u64::MAX };
        let before = find(proc.as_fd(), &own, false, all).unwrap().parked;
        let fds = [one.as_fd(), other.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [std::io::IoSlice::new(b"x")];
        rustix::net::sendmsg(&one, &bytes, &mut control, SendFlags::empty()).unwrap();
        // Other tests run in this process, and may send some themselves.
        let found = find(proc.as_fd(), &own, false, all).unwrap();
        assert!(found.parked >= before.saturating_add(2).min(2), "{found:?}");
        assert!(find(proc.as_fd(), &[i32::MAX], false, all).is_ok(), "what is gone has nothing");
    }
}
