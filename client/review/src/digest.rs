//! Digests and comparison of contents, in which a hole is nothing but zeros: a sparse file of any size costs what is
//! written in it.

use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The unit of comparison, in bytes.
const BLOCK: usize = 64 << 10;

/// SHA-256 of a content: of its size, then of each block of 64 KiB that is not all zero, after its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Digest {
    /// Of a regular file's content. Reads at most what the file has when its end is first met.
    ///
    /// # Errors
    /// As `read(2)` and `lseek(2)`.
    pub fn of_file(file: impl AsFd) -> Result<(Self, u64), Errno> {
        let mut sum = Sha256::new();
        let size = for_each_block(file.as_fd(), |number, block| {
            sum.update(number.to_le_bytes());
            sum.update(block);
            Ok::<_, Errno>(())
        })?;
        sum.update(size.to_le_bytes());
        Ok((Self(sum.finalize().into()), size))
    }

    /// Of a regular file's content, while `each` is called with the offset and bytes of every block that is not all
    /// zero. What it makes of them is the content that has this digest, whatever the file is meanwhile.
    ///
    /// # Errors
    /// As [`Digest::of_file`], and those of `each`.
    pub fn of_blocks<E: From<Errno>>(
        file: impl AsFd,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(Self, u64), E> {
        let mut sum = Sha256::new();
        let size = for_each_block(file.as_fd(), |number, block| {
            sum.update(number.to_le_bytes());
            sum.update(block);
            each(number * BLOCK as u64, block)
        })?;
        sum.update(size.to_le_bytes());
        Ok((Self(sum.finalize().into()), size))
    }

    /// Of bytes in memory, as of a file with them.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut sum = Sha256::new();
        for (number, block) in (0_u64..).zip(bytes.chunks(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                sum.update(number.to_le_bytes());
                sum.update(block);
            }
        }
        sum.update((bytes.len() as u64).to_le_bytes());
        Self(sum.finalize().into())
    }
}

/// Calls `each` with number and bytes of every block that is not all zero; the file's size.
fn for_each_block<E: From<Errno>>(
    file: impl AsFd,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut block = vec![0; BLOCK];
    let mut at = 0_u64;
    loop {
        // The next that may not be a hole; none is left, or the file system knows of no holes.
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break Ok(rustix::fs::seek(&file, SeekFrom::End(0))?.max(at)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno.into()),
        };
        at = data - data % BLOCK as u64;
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file, rest, at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let bytes = block.get(..filled).unwrap_or_default();
        if bytes.iter().any(|byte| *byte != 0) {
            each(at / BLOCK as u64, bytes)?;
        }
        at += filled as u64;
        if filled < BLOCK {
            break Ok(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;

    fn file(parts: &[(u64, Vec<u8>)], size: u64) -> (std::os::fd::OwnedFd, Vec<u8>) {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        rustix::fs::ftruncate(&file, size).unwrap();
        for (at, part) in parts {
            rustix::io::pwrite(&file, part, *at).unwrap();
            bytes[usize::try_from(*at).unwrap()..][..part.len()].copy_from_slice(part);
        }
        (file, bytes)
    }

    #[test]
    fn a_hole_costs_nothing() {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 40).unwrap();
        let (empty, size) = Digest::of_file(&file).unwrap();
        assert_eq!(size, 1 << 40);
        rustix::io::pwrite(&file, b"x", 1 << 39).unwrap();
        assert_ne!(Digest::of_file(&file).unwrap().0, empty);
    }

    proptest! {
        #[test]
        fn a_file_is_its_bytes(parts in proptest::collection::vec((0_u64..300_000, proptest::collection::vec(any::<u8>(), 1..100)), 0..8), more in 0_u64..200_000) {
            let (file, bytes) = file(&parts, 300_100 + more);
            prop_assert_eq!(Digest::of_file(&file).unwrap(), (Digest::of_bytes(&bytes), bytes.len() as u64));
        }
    }
}
