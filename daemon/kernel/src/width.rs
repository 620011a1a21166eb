//! Numbers in the widths that the kernel's interfaces fix; libc has many of its constants as `int`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "each function compares with the width first"
)]

/// `number` as eight bits.
///
/// # Panics
/// If it does not fit. Of a constant in a constant, that is an error of the compiler.
pub(crate) const fn byte(number: libc::c_int) -> u8 {
    assert!(number >= 0 && number <= 0xff, "more than a byte");
    number as u8
}

/// `number` as sixteen bits.
///
/// # Panics
/// As [`byte`].
pub(crate) const fn half(number: u32) -> u16 {
    assert!(number <= 0xffff, "more than two bytes");
    number as u16
}

/// Bytes of a `T`, as system calls take them.
///
/// # Panics
/// As [`byte`].
pub(crate) const fn size<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size <= u32::MAX as usize, "more than four bytes hold");
    size as u32
}

/// A length as system calls take it: never more than `length`.
pub(crate) fn at_most(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
