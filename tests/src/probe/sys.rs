//! System calls, raw: what libraries have no function for, or would not do wrongly enough.
//!
//! The only file of the tests with `unsafe`. A hostile program passes any number that it likes; ours passes
//! no address as a number (but one that the kernel must refuse), so that the kernel writes only where a slice
//! says that it may.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// An argument of a system call.
pub enum Arg<'a> {
    /// A number: flags, a descriptor, a size. Never an address.
    Int(i64),
    /// A string that ends with NUL.
    Text(CString),
    /// Bytes that the call reads.
    In(&'a [u8]),
    /// Bytes that the call may write.
    Out(&'a mut [u8]),
    /// No address at all.
    Null,
}

impl Arg<'_> {
    fn word(&mut self) -> libc::c_long {
        match self {
            Self::Int(number) => *number,
            Self::Text(text) => text.as_ptr() as libc::c_long,
            Self::In(bytes) => bytes.as_ptr() as libc::c_long,
            Self::Out(bytes) => bytes.as_mut_ptr() as libc::c_long,
            Self::Null => 0,
        }
    }
}

macro_rules! from_int {
    ($($t:ty),*) => {$(impl From<$t> for Arg<'_> { fn from(n: $t) -> Self { Self::Int(n.into()) } })*};
}
from_int!(i32, u32, i64);

impl From<u64> for Arg<'_> {
    fn from(n: u64) -> Self {
        Self::Int(n.cast_signed())
    }
}

impl From<usize> for Arg<'_> {
    fn from(n: usize) -> Self {
        Self::from(n as u64)
    }
}

impl From<CString> for Arg<'_> {
    fn from(text: CString) -> Self {
        Self::Text(text)
    }
}

impl From<&CString> for Arg<'_> {
    fn from(text: &CString) -> Self {
        Self::Text(text.clone())
    }
}

/// `syscall(number, arguments…)`.
///
/// # Errors
/// The kernel's errno.
pub fn call<const N: usize>(number: i64, mut arguments: [Arg<'_>; N]) -> io::Result<i64> {
    let mut words = [0; 6];
    for (word, argument) in words.iter_mut().zip(&mut arguments) {
        *word = argument.word();
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: pointers among the words come from `arguments`, which outlive the call; each is as long as
    // the caller's structure for this call, which the callers in this crate see to.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A call that answers with a descriptor.
///
/// # Errors
/// The kernel's errno.
pub fn open_call<const N: usize>(number: i64, arguments: [Arg<'_>; N]) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(call(number, arguments)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The call `number` of the 32-bit ABI, by `int 0x80`, without arguments.
///
/// # Errors
/// The kernel's errno.
#[cfg(target_arch = "x86_64")]
pub fn int80(number: i32) -> io::Result<i32> {
    let result: i32;
    // SAFETY: callers name calls without arguments; the registers that the kernel may change are named.
    unsafe {
        std::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inlateout("eax") number => result,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// What [`fork`] returns to whom.
pub enum Fork {
    /// To the parent.
    Parent(i32),
    /// To the child.
    Child,
}

/// `fork(2)`.
///
/// # Errors
/// The kernel's errno.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the probe has one thread, so the child may do all that the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// `waitpid(2)`: the raw status.
///
/// # Errors
/// The kernel's errno.
pub fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(status),
    }
}

/// Ends the process without any clean-up.
pub fn exit(code: i32) -> ! {
    // SAFETY: has no precondition.
    unsafe { libc::_exit(code) }
}

/// Gives `signal` its default action, or has it ignored.
pub fn ignore(signal: i32, on: bool) {
    // SAFETY: neither of the two actions runs code of ours.
    unsafe { libc::signal(signal, if on { libc::SIG_IGN } else { libc::SIG_DFL }) };
}

/// The address of a variable of this process that another process may be asked to read, and its size.
pub fn own_word() -> (u64, usize) {
    static WORD: u64 = 0x6167_656e_7464;
    (std::ptr::from_ref(&WORD) as u64, size_of::<u64>())
}

/// `text` for a call.
///
/// # Panics
/// If it holds a NUL byte.
pub fn c(text: &str) -> CString {
    CString::new(text).expect("texts of the probe hold no NUL")
}
