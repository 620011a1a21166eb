//! A file as a block device (`loop(4)`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
/// The device goes with its last user.
const AUTOCLEAR: u32 = 4;
/// The file's pages are not cached besides the device's.
const DIRECT_IO: u32 = 16;
/// How often another process may take the device that was free a moment ago.
const TRIES: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A device that lasts as long as this handle, and as what is mounted of it.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    _device: OwnedFd,
}

impl LoopDevice {
    /// A new device over `file`, with blocks of `block_size` bytes.
    ///
    /// # Errors
    /// As `open(2)` of /dev/loop-control and of the device; as `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE`.
    pub fn over(file: BorrowedFd<'_>, block_size: u32) -> std::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty())?;
        let config = config(file, block_size);
        for _ in 0..TRIES {
            // SAFETY: the request takes no argument; its result is a number.
            let free = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let Ok(number) = u32::try_from(free) else { return Err(std::io::Error::last_os_error()) };
            let device = rustix::fs::open(path(number), flags, Mode::empty())?;
            // SAFETY: the request reads a `struct loop_config`, which lives until then, and keeps nothing of it.
            let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
            if done == 0 {
                return Ok(Self { number, _device: device });
            }
            match std::io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EBUSY) => {}
                error => return Err(error),
            }
        }
        Err(std::io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// The device that is over `file` already: a file system must not be mounted from two at once.
    ///
    /// # Errors
    /// As `readdir(3)` of /sys/block and `fstat(2)`.
    pub fn find(file: BorrowedFd<'_>) -> std::io::Result<Option<Self>> {
        let wanted = rustix::fs::fstat(file)?;
        for entry in std::fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
            let Some(number) = number else { continue };
            // What is over no file is left alone.
            if !std::path::Path::new(&format!("/sys/block/loop{number}/loop/backing_file")).exists() {
                continue;
            }
            // One that goes at this moment is not it.
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let Ok(device) = rustix::fs::open(path(number), flags, Mode::empty()) else { continue };
            let mut info = info();
            // SAFETY: the request writes a `struct loop_info64`, which lives until then.
            let got = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
            if got == 0 && (info.device, info.inode) == (wanted.st_dev, wanted.st_ino) {
                return Ok(Some(Self { number, _device: device }));
            }
        }
        Ok(None)
    }

    /// The device's path in /dev.
    pub fn path(&self) -> String {
        path(self.number)
    }
}

fn path(number: u32) -> String {
    format!("/dev/loop{number}")
}

fn info() -> Info {
    let mut file_name = [0; 64];
    for (to, from) in file_name.iter_mut().zip(b"agentd") {
        *to = *from;
    }
    Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR | DIRECT_IO,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    }
}

fn config(file: BorrowedFd<'_>, block_size: u32) -> Config {
    Config { fd: file.as_raw_fd().unsigned_abs(), block_size, info: info(), reserved: [0; 8] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
        assert_eq!(std::mem::offset_of!(Config, info), 8);
        assert_eq!(std::mem::offset_of!(Info, flags), 52);
    }
}
