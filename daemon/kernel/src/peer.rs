//! Who is at the other end of a Unix socket, as the kernel recorded it when the peer connected.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use agentd_policy::wire::Peer;

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
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socketpair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = attest(a.as_fd(), u32::MAX).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.pid, std::process::id() as i32);
        assert!(!peer.admin);
        assert!(attest(a.as_fd(), peer.gid).unwrap().admin);
    }
}
