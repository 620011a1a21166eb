//! Who is at the other end of a Unix socket, as the kernel recorded it when the peer connected; and whether somebody
//! still is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use agentd_policy::wire::Peer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags};

use crate::width;

/// More groups than any account has: the kernel's own limit (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// The peer of `socket`: `SO_PEERCRED`, and through `SO_PEERGROUPS` whether it belongs to `admin`.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn attest(socket: BorrowedFd<'_>, admin: u32) -> std::io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    let gid = credentials.gid.as_raw();
    let admin = gid == admin || groups(socket)?.contains(&admin);
    Ok(Peer { uid: credentials.uid.as_raw(), gid, pid: credentials.pid.as_raw_nonzero().get(), admin })
}

/// The supplementary groups of the peer, as they were when it connected.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn groups(socket: BorrowedFd<'_>) -> std::io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = width::at_most(groups.len() * size_of::<libc::gid_t>());
        // SAFETY: the kernel writes at most `bytes` bytes into a buffer of that length and then sets
        // `bytes` to what it wrote, or to what it would need (ERANGE).
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// `SO_PASSRIGHTS` of `socket(7)` (Linux 6.16), which libc does not have yet.
const SO_PASSRIGHTS: libc::c_int = 83;
/// What is looked at for descriptors at most, in bytes.
const MAX_LOOK: usize = 64 << 10;

/// Whether the peer has closed its end. It does not wait; what is unknown counts as open.
pub fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1)) && fds[0].revents().contains(PollFlags::HUP)
}

/// Whether closing the socket may close descriptors that wait in it, which for some files takes as long as their
/// sender likes. The descriptors stay where they are: `recvmsg(2)` with `MSG_PEEK` and no room for them only says that
/// there are some.
pub fn may_hold_descriptors(socket: BorrowedFd<'_>) -> bool {
    let waiting = match rustix::io::ioctl_fionread(socket).map(usize::try_from) {
        Ok(Ok(0)) => return false,
        Ok(Ok(waiting)) if waiting <= MAX_LOOK => waiting,
        _ => return true,
    };
    let mut bytes = vec![0; waiting];
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let mut no_room = RecvAncillaryBuffer::new(&mut []);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recvmsg(socket, &mut slices, &mut no_room, flags) {
        // A stream is read up to the next descriptors, packets one at a time: what is left may have some.
        Ok(seen) => seen.bytes < waiting || seen.flags.contains(ReturnFlags::CTRUNC),
        Err(_) => true,
    }
}

/// Has the kernel refuse descriptors from peers of this listening socket. `false` before Linux 6.16.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn refuse_descriptors(listener: BorrowedFd<'_>) -> std::io::Result<bool> {
    let off: libc::c_int = 0;
    // SAFETY: the kernel reads an int from `off`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            width::size::<libc::c_int>(),
        )
    };
    match result {
        0 => Ok(true),
        _ => match std::io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socketpair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = attest(a.as_fd(), u32::MAX).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert!(!peer.admin);
        assert!(attest(a.as_fd(), peer.gid).unwrap().admin);
    }

    #[test]
    fn an_end_that_is_closed_has_hung_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!has_hung_up(ours.as_fd()));
        std::io::Write::write_all(&mut &theirs, b"bye").unwrap();
        drop(theirs);
        assert!(has_hung_up(ours.as_fd()));
    }

    #[test]
    fn descriptors_are_found_behind_bytes_and_packets() {
        use crate::packets::Packets;
        let (ours, theirs) = Packets::pair().unwrap();
        assert!(!may_hold_descriptors(ours.as_fd()));
        theirs.send(b"x", &[]).unwrap();
        assert!(!may_hold_descriptors(ours.as_fd()));
        theirs.send(b"y", &[theirs.as_fd()]).unwrap();
        assert!(may_hold_descriptors(ours.as_fd()));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Packets::from_fd(theirs.into());
        theirs.send(b"plain", &[]).unwrap();
        assert!(!may_hold_descriptors(ours.as_fd()));
        theirs.send(b"more", &[theirs.as_fd()]).unwrap();
        assert!(may_hold_descriptors(ours.as_fd()));
        // They are still there.
        let packet = Packets::from_fd(ours.into()).receive(64, 8).unwrap().unwrap();
        assert_eq!((packet.bytes.as_slice(), packet.descriptors.len()), (&b"plainmore"[..], 1));
    }

    #[test]
    fn who_connects_can_send_no_descriptor() {
        let path = std::env::temp_dir().join(format!("agentd-rights-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refused = refuse_descriptors(listener.as_fd()).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let client = crate::packets::Packets::from_fd(client.into());
        assert_eq!(client.send(b"x", &[client.as_fd()]).is_err(), refused);
    }
}
