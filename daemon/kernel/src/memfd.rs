//! Memory with a descriptor (`memfd_create(2)`) that one process fills and others read: sealed, so that nobody changes
//! it any more, whichever process has the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

/// What may not be done to it any more.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// An empty one, called `name` in /proc, which can never be run where the kernel knows of that (`vm.memfd_noexec`, from
/// Linux 6.3 on). Close-on-exec.
///
/// # Errors
/// As `memfd_create(2)`.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// One that is sealed.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Seals `fd`, which others can read from then on and nobody can write.
    ///
    /// # Errors
    /// If somebody has it mapped to write to it, or the kernel does not say afterwards that it is sealed.
    pub fn seal(fd: OwnedFd) -> io::Result<Self> {
        rustix::fs::fchmod(&fd, Mode::RUSR)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        Self::adopt(fd)
    }

    /// Takes one over that somebody else has sealed.
    ///
    /// # Errors
    /// If it is not.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        match rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS) {
            true => Ok(Self(fd)),
            false => Err(io::Error::other("memory that is not sealed")),
        }
    }

    /// How many bytes it has.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn size(&self) -> io::Result<u64> {
        u64::try_from(rustix::fs::fstat(&self.0)?.st_size).map_err(io::Error::other)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As `pread(2)`; `UnexpectedEof` beyond its end.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match rustix::io::pread(&self.0, &mut *buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A second descriptor of it.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FallocateFlags;

    #[test]
    fn what_is_sealed_is_read_and_never_changed() {
        let fd = create("test").unwrap();
        rustix::io::write(&fd, b"abcdef").unwrap();
        let other = fd.try_clone().unwrap();
        assert!(Sealed::adopt(fd.try_clone().unwrap()).is_err());
        let sealed = Sealed::seal(fd).unwrap();
        assert_eq!(sealed.size().unwrap(), 6);
        let mut two = [0; 2];
        sealed.read_exact_at(&mut two, 4).unwrap();
        assert_eq!(&two, b"ef");
        assert_eq!(sealed.read_exact_at(&mut two, 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(rustix::io::pwrite(&other, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&other, 0), Err(Errno::PERM));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&other, hole, 0, 6), Err(Errno::PERM));
        assert!(Sealed::adopt(other).is_ok());
    }
}
