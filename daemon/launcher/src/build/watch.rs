//! Marking every mount of the finished root from which a program can run.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::{creds, mount};
use rustix::fs::{Mode, OFlags};

use super::fault::{At, Fault};

/// A group with a mark on every mount of the builder's namespace that is not `noexec`. `proc` is the host's.
pub fn every_mount(proc: BorrowedFd<'_>, keeper: u32) -> Result<ExecWatch, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty()).at("exec-watch", "mountinfo")?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).at("exec-watch", "mountinfo")?;
    // The kernel counts groups by uid (fs.fanotify.max_user_groups): each lease has its own count.
    creds::effective_uid(keeper).at("exec-watch", "keeper's uid")?;
    let watch = ExecWatch::new().at("exec-watch", "fanotify");
    creds::effective_uid(0).at("exec-watch", "root's uid")?;
    super::prepare::ends_with_launcher()?;
    let watch = watch?;
    for path in exec_mounts(&text) {
        let place = mount::place(&path).at("exec-watch", &path)?;
        watch.mark(place.as_fd()).at("exec-watch", &path)?;
    }
    Ok(watch)
}

/// The mounts of the builder's namespace as a file that reports priority data when one comes or goes
/// (`proc_pid_mountinfo(5)`).
pub fn mounts(proc: BorrowedFd<'_>) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty()).at("mounts", "mountinfo")
}

/// Where the mounts are whose options lack `noexec`.
fn exec_mounts(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            (!options.split(',').any(|o| o == "noexec")).then(|| unescape(point))
        })
        .collect()
}

/// A path as mountinfo writes it: three octal digits behind a backslash stand for a byte.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_from_mounts_without_noexec() {
        let text = "1 0 0:1 / / ro,nosuid,noexec - tmpfs none rw\n\
                    2 1 8:1 /usr /usr ro,nosuid,nodev - ext4 /dev/vda rw\n\
                    3 1 8:1 /x /home/a\\040b rw,nosuid - ext4 /dev/vda rw\n";
        assert_eq!(exec_mounts(text), ["/usr", "/home/a b"]);
        assert_eq!(unescape("a\\134b\\"), "a\\b\\");
    }
}
