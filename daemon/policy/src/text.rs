//! Bytes of names and arguments as text, so that what differs stays different.
//!
//! Linux's names and arguments are bytes. Where they become text (events, records, plans), what is UTF-8 stays as it
//! is, and each byte that is not is written as `\xNN`, with two lower-case hexadecimal digits. A backslash that would
//! read as the beginning of such an escape is written as `\x5c`. So every text has one meaning: [`to_bytes`] gives
//! back what [`from_bytes`] was given.

/// `bytes` as text.
pub fn from_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut rest = valid;
        while let Some(at) = rest.find('\\') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            out.push_str(if escape(from.as_bytes()).is_some() { "\\x5c" } else { "\\" });
            rest = &from[1..];
        }
        out.push_str(rest);
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The bytes that `text` stands for.
pub fn to_bytes(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, more)) = rest.split_first() {
        match escape(rest) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    out
}

/// The byte that `text` begins with as `\xNN`.
fn escape(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    match text {
        [b'\\', b'x', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_utf8_stays_as_it_is() {
        for text in ["", "/usr/bin/größe", r"printf 'a\n\x'", r"C:\x\", r"\\x5", r"\xFF"] {
            assert_eq!(from_bytes(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_is_not_is_escaped_and_nothing_else_reads_so() {
        assert_eq!(from_bytes(b"/w/\xff\xc3("), r"/w/\xff\xc3(");
        assert_eq!(from_bytes(br"/w/\xff"), r"/w/\x5cxff");
        assert_eq!(from_bytes(b"\\\xff"), r"\\xff");
        assert_eq!(from_bytes(br"\\xff"), r"\\x5cxff");
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), Just(b'f')], 0..24)
        ) {
            prop_assert_eq!(to_bytes(&from_bytes(&bytes)), bytes);
        }
    }
}
