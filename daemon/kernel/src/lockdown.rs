//! What a program takes from itself once it has all that it needs.

use crate::creds::{self, CredsError};
use crate::landlock::{self, LandlockError};
use crate::seccomp::{self, SeccompError};

/// What is in force.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// By Landlock: no file, no port, no signal to others.
    pub landlock: landlock::Enforced,
    /// By the filter.
    pub seccomp: seccomp::Enforced,
}

/// Why a program is not locked down.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    /// Every layer binds one thread; another would stay free.
    #[error("the program has more than one thread")]
    Threads,
    /// Dumpable or no_new_privs.
    #[error(transparent)]
    Creds(#[from] CredsError),
    /// Landlock does not hold.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    /// The filter is not installed.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Leaves `agentd-relay`, or what reads blocklists, its open descriptors and nothing else. To be called at the start of
/// `main`, before there is a second thread; nothing can be opened, connected or executed afterwards.
///
/// # Errors
/// [`LockdownError`]. Some layers may be in force; the program must end.
pub fn relay() -> Result<Enforced, LockdownError> {
    if !creds::single_threaded() {
        return Err(LockdownError::Threads);
    }
    creds::not_dumpable()?;
    creds::no_new_privs()?;
    let landlock = landlock::deny_all()?;
    let filter = seccomp::compile(&seccomp::RELAY, seccomp::Options { memfd_create: false, set_gid: false });
    Ok(Enforced { landlock, seccomp: seccomp::install(&filter)? })
}

/// Running tests in children, which may be confined for good.
#[cfg(test)]
pub(crate) mod testing {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    /// Runs `test` in a forked child and panics with what it panicked with.
    pub fn in_child(test: impl FnOnce()) {
        let status = child(test);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child: status {status:#x}");
    }

    /// The wait status of a forked child that runs `test`. Its panics go to this process's standard error.
    pub fn child(test: impl FnOnce()) -> i32 {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child runs code of the test's that takes no lock that another thread may hold, but
        // for the allocator's, which glibc makes free in children.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let fd = writer.as_raw_fd();
            std::panic::set_hook(Box::new(move |info| {
                let text = info.to_string();
                // SAFETY: the text lives across the call.
                unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
            }));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            // SAFETY: ends the process; no destructor of the test harness runs twice.
            unsafe { libc::_exit(i32::from(ended.is_err())) };
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let mut status = 0;
        // SAFETY: `status` lives across the call; the child is ours.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(text.is_empty(), "in the child: {text}");
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_relay_keeps_its_descriptors_and_nothing_else() {
        let (reader, writer) = std::io::pipe().unwrap();
        testing::in_child(|| {
            let enforced = relay().unwrap();
            assert!(enforced.landlock.abi >= 2 && enforced.seccomp.instructions > 20);
            rustix::io::write(&writer, b"x").unwrap();
            rustix::io::ioctl_fionbio(&reader, true).unwrap();
            assert_eq!(rustix::io::read(reader.as_fd(), &mut [0; 4]).unwrap(), 1);
            let error = std::fs::File::open("/").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            drop(vec![1_u8; 8 << 20]);
        });
    }

    #[test]
    fn what_a_relay_never_does_ends_it() {
        let calls = [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_fork,
            libc::SYS_clone,
            libc::SYS_ptrace,
            libc::SYS_dup2,
        ];
        for call in calls {
            let status = testing::child(|| {
                let _enforced = relay().unwrap();
                // SAFETY: it never runs; with these arguments it would fail or make a descriptor.
                unsafe { libc::syscall(call, libc::AF_INET, libc::SOCK_STREAM, 0, 0, 0, 0) };
            });
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS,
                "{call}: {status:#x}"
            );
        }
    }

    /// A connection that was refused leaves a socket that such a message connects anew, to where it likes.
    #[test]
    fn a_relay_reaches_nothing_by_a_socket_that_failed() {
        use rustix::net::{AddressFamily, SendFlags, SocketType};
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let failed = || {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            assert!(rustix::net::connect(&socket, &closed).is_err());
            socket
        };
        let send = |socket: &std::os::fd::OwnedFd| {
            let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
            rustix::net::sendto(socket, b"x", flags, &to)
        };
        // The act itself works.
        assert_eq!(send(&failed()), Ok(1));
        let socket = failed();
        let status = testing::child(|| {
            let _enforced = relay().unwrap();
            send(&socket).ok();
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:#x}");
    }

    #[test]
    fn a_relay_can_abort() {
        let status = testing::child(|| {
            let _enforced = relay().unwrap();
            std::process::abort();
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:#x}");
    }

    #[test]
    fn a_second_thread_is_refused() {
        testing::in_child(|| {
            let (started, wait) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    started.wait();
                    wait.wait();
                });
                started.wait();
                let refused = relay();
                wait.wait();
                assert!(matches!(refused, Err(LockdownError::Threads)));
            });
        });
    }
}
