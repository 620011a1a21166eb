//! Whether a namespace is still there, without holding it: by its file handle (Linux 6.18).
//!
//! Whatever a process opens keeps the credentials that it was opened with, and these their user namespace. So as long
//! as one descriptor of a session is held anywhere on the host, in a process or in the queue of a socket, the session's
//! user namespace is alive.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::width;

/// What the kernel needs to find a namespace again. A number that no other namespace gets until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// What the bytes are.
    pub kind: i32,
    /// The handle's opaque bytes.
    pub bytes: [u8; Handle::SIZE],
}

/// As `struct file_handle` of name_to_handle_at(2), with room for what nsfs writes.
#[repr(C)]
struct Raw {
    size: u32,
    kind: i32,
    bytes: [u8; Handle::SIZE],
}

impl Handle {
    /// What nsfs writes: an identity, a type and an inode number.
    pub const SIZE: usize = 16;

    /// The handle of the namespace that `namespace` is open on; `None` if this kernel has none for namespaces.
    ///
    /// # Errors
    /// As name_to_handle_at(2).
    pub fn of(namespace: BorrowedFd<'_>) -> std::io::Result<Option<Self>> {
        let mut raw = Raw { size: width::size::<[u8; Self::SIZE]>(), kind: 0, bytes: [0; Self::SIZE] };
        let mut mount = 0;
        // SAFETY: the path is an empty string that ends with a NUL; the kernel writes at most `size` bytes behind the
        // two numbers, which is what `bytes` has, and one number to `mount`. Both live across the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                namespace.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result == 0 && raw.size as usize == Self::SIZE {
            return Ok(Some(Self { kind: raw.kind, bytes: raw.bytes }));
        }
        match std::io::Error::last_os_error() {
            _ if result == 0 => Ok(None),
            // No handles there, or larger ones than we know.
            error if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EOVERFLOW)) => Ok(None),
            error => Err(error),
        }
    }

    /// Whether that namespace is alive. `any` is open on some other namespace.
    ///
    /// # Errors
    /// As open_by_handle_at(2), but for `ESTALE`.
    pub fn is_alive(&self, any: BorrowedFd<'_>) -> std::io::Result<bool> {
        let raw = Raw { size: width::size::<[u8; Self::SIZE]>(), kind: self.kind, bytes: self.bytes };
        // SAFETY: the kernel reads the two numbers and `size` bytes behind them, which live across the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                any.as_raw_fd(),
                &raw const raw,
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        if result >= 0 {
            let fd = i32::try_from(result).map_err(std::io::Error::other)?;
            // SAFETY: a new descriptor that nobody else owns.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            return Ok(true);
        }
        match std::io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESTALE) => Ok(false),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, CloneArgs, SingleThreaded};
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_keeps_its_user_namespace_alive() {
        crate::lockdown::testing::in_child(|| {
            let own = File::open("/proc/self/ns/user").unwrap();
            let (mut ready, writer) = std::io::pipe().unwrap();
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let token = SingleThreaded::verify().unwrap();
            // Its descriptor, opened in its own namespace, goes out through a socket and stays in the queue.
            let child = process::spawn(token, CloneArgs { new_user: true, ..CloneArgs::default() }, || {
                let file = File::open("/dev/null").unwrap();
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
                let fds = [file.as_fd()];
                assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
                let flags = rustix::net::SendFlags::empty();
                rustix::net::sendmsg(&theirs, &[std::io::IoSlice::new(b"x")], &mut control, flags).unwrap();
                std::io::Write::write_all(&mut &writer, b"x").unwrap();
                nix::unistd::pause();
                0
            })
            .unwrap();
            std::io::Read::read_exact(&mut ready, &mut [0]).unwrap();
            let path = format!("/proc/{}/ns/user", child.pid.as_raw_nonzero());
            let handle = Handle::of(File::open(path).unwrap().as_fd()).unwrap();
            child.kill().and_then(|()| child.wait()).unwrap();
            let Some(handle) = handle else {
                eprintln!("SKIPPED: this kernel has no handles of namespaces");
                return;
            };
            assert!(handle.is_alive(own.as_fd()).unwrap(), "a descriptor in a queue does not count");
            drop((ours, theirs));
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while handle.is_alive(own.as_fd()).unwrap() {
                assert!(std::time::Instant::now() < until, "nothing holds it any more");
                std::thread::yield_now();
            }
        });
    }
}
