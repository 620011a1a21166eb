//! Descriptors that lie in the queue of somebody else's Unix socket: in nobody's table, and still open.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::width;

/// The most that one message carries (`SCM_MAX_FD`).
const MOST: usize = 253;
/// More than a datagram holds.
const BUFFER: usize = 256 << 10;
/// The most messages of one queue that are looked at.
const MESSAGES: usize = 4096;
/// `PIDFD_THREAD`, from Linux 6.9 on.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

/// A copy of what `thread` of `process` has as descriptor `number`.
///
/// # Errors
/// As `pidfd_open(2)` and `pidfd_getfd(2)`.
pub fn descriptor_of(process: i32, thread: i32, number: u32) -> std::io::Result<OwnedFd> {
    let flags = if process == thread { 0 } else { PIDFD_THREAD };
    // SAFETY: two numbers; the result is checked before it is owned.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, thread, flags) })?;
    // SAFETY: three numbers; the result is checked before it is owned.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

fn owned(result: libc::c_long) -> std::io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it, for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Gives `look` copies of the descriptors in the queue of `socket`, message by message, until it has seen `most` of
/// them; everything stays in the queue. Those of connections that were not accepted are out of sight. The socket must
/// not be in use meanwhile: where it is looked from (`SO_PEEK_OFF`) changes for that time.
///
/// # Errors
/// As `setsockopt(2)` and `recvmsg(2)`, and what `look` says.
pub fn peek(
    socket: BorrowedFd<'_>,
    most: u64,
    mut look: impl FnMut(Vec<OwnedFd>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let before = peek_offset(socket)?;
    set_peek_offset(socket, 0)?;
    let mut bytes = vec![0; BUFFER];
    let mut seen = 0_u64;
    let mut looked = Ok(());
    for _ in 0..MESSAGES {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // That was all.
            Err(_) => break,
        }
        let found: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        seen = seen.saturating_add(found.len() as u64);
        looked = look(found);
        if looked.is_err() || seen >= most {
            break;
        }
    }
    set_peek_offset(socket, before).and(looked)
}

fn peek_offset(socket: BorrowedFd<'_>) -> std::io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = width::size::<libc::c_int>();
    // SAFETY: the option is an int, and so is what it is written to; both live until then.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(value) } else { Err(std::io::Error::last_os_error()) }
}

fn set_peek_offset(socket: BorrowedFd<'_>, value: libc::c_int) -> std::io::Result<()> {
    let size = width::size::<libc::c_int>();
    // SAFETY: the option is an int, and so is what it is read from, which lives until then.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    };

    use super::*;

    fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let bytes = [std::io::IoSlice::new(bytes)];
        rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn what_lies_in_a_queue_is_seen_and_stays() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (one, other) =
                rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
            send(&one, b"first, without any", &[]);
            send(&one, b"second", &[file.as_fd(), file.as_fd()]);
            send(&one, b"third", &[file.as_fd()]);
            for _ in 0..2 {
                let mut seen = 0;
                peek(other.as_fd(), 3, |found| {
                    seen += found.len();
                    Ok(())
                })
                .unwrap();
                assert_eq!(seen, 3, "{kind:?}");
            }
            assert_eq!(peek_offset(other.as_fd()).unwrap(), -1);
            let mut bytes = [0; 64];
            let (count, _) = rustix::net::recv(&other, &mut bytes, RecvFlags::empty()).unwrap();
            assert!(bytes[..count].starts_with(b"first, without any"));
        }
    }

    #[test]
    fn a_descriptor_of_another_process_is_copied() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let copy = descriptor_of(own, own, one.as_raw_fd().unsigned_abs()).unwrap();
        let ino = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(ino(copy.as_fd()), ino(one.as_fd()));
        assert!(descriptor_of(own, own, u32::MAX).is_err());
    }
}
