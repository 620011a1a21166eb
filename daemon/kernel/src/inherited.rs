//! Descriptors that a program was started with, by number: how a helper gets what it works on.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Why a descriptor was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// Nothing has that number.
    #[error("descriptor {0} is not open")]
    NotOpen(RawFd, #[source] std::io::Error),
    /// It is one of standard input, output and error, or was opened or taken by this process.
    #[error("descriptor {0} was not handed over at the start")]
    NotOurs(RawFd),
}

/// Takes the descriptor `number`, which the program's starter left open across `exec`, and makes it
/// close-on-exec. A second take of the same number is an error.
///
/// Whatever agentd opens itself is close-on-exec from the start, so that what is not was inherited.
///
/// # Errors
/// [`InheritedError`]; then nothing was changed.
pub fn take(number: RawFd) -> Result<OwnedFd, InheritedError> {
    static TAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= 2 {
        return Err(InheritedError::NotOurs(number));
    }
    // SAFETY: it is not -1, and is used for two calls of `fcntl` only; a number that is not open fails there
    // with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(fd).map_err(|errno| InheritedError::NotOpen(number, errno.into()))?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(InheritedError::NotOurs(number));
    }
    fcntl_setfd(fd, flags | FdFlags::CLOEXEC)
        .map_err(|errno| InheritedError::NotOpen(number, errno.into()))?;
    // SAFETY: it is open, and nobody in this process owns it: it was not close-on-exec until now, as only
    // inherited descriptors are, and a second call finds it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_was_inherited_is_taken_and_once() {
        let own = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(take(own.as_raw_fd()), Err(InheritedError::NotOurs(_))));
        assert!(matches!(take(1), Err(InheritedError::NotOurs(1))));
        assert!(matches!(take(1 << 20), Err(InheritedError::NotOpen(..))));
        fcntl_setfd(&own, FdFlags::empty()).unwrap();
        let number = own.into_raw_fd();
        let taken = take(number).unwrap();
        assert!(matches!(take(number), Err(InheritedError::NotOurs(_))));
        drop(taken);
    }
}
