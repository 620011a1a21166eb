//! The keys that detach from a terminal (`ctrl-p ctrl-q`), found in what is typed.

use prost::bytes::Bytes;

/// A sequence of keys. Empty: nothing detaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

/// Keys that are malformed; the text is the hint that clap prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write keys such as ctrl-p,ctrl-q: each a letter or digit, or ctrl- and one of a-z @ [ \\ ] ^ _; nothing for none"
)]
pub struct MalformedKeys;

/// Reads `ctrl-p,ctrl-q`: keys with commas between them, each a character or `ctrl-` and one of `a-z@[\]^_`.
///
/// # Errors
/// If one of them is neither.
pub fn parse(text: &str) -> Result<Keys, MalformedKeys> {
    if text.is_empty() {
        return Ok(Keys(vec![]));
    }
    text.split(',').map(|key| key_byte(key).ok_or(MalformedKeys)).collect::<Result<_, _>>().map(Keys)
}

fn key_byte(key: &str) -> Option<u8> {
    match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
        (Some([letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')]), _) => Some(letter.to_ascii_uppercase() & 0x1f),
        (None, [key]) if key.is_ascii_graphic() => Some(*key),
        _ => None,
    }
}

/// Finds the keys in a stream. A beginning of them is held back until the next key shows what it is.
#[derive(Debug)]
pub struct Finder {
    keys: Keys,
    /// How many of the keys were typed last.
    held: usize,
}

impl Finder {
    /// At the beginning of a stream.
    pub fn new(keys: Keys) -> Self {
        Self { keys, held: 0 }
    }

    /// What of `typed`, and of what was held back, goes to the command; and whether the keys were complete.
    /// What is typed after them goes nowhere.
    pub fn pass(&mut self, typed: Bytes) -> (Bytes, bool) {
        let keys = &self.keys.0;
        let Some(first) = keys.first() else { return (typed, false) };
        if self.held == 0 && !typed.contains(first) {
            return (typed, false);
        }
        let mut out = Vec::with_capacity(self.held + typed.len());
        for byte in typed {
            // What was held and the new key; of it, the longest end that could be the beginning of the keys
            // is held on.
            let mut seen = keys[..self.held].to_vec();
            seen.push(byte);
            let free = (0..=seen.len()).find(|cut| keys.starts_with(&seen[*cut..])).unwrap_or(seen.len());
            out.extend_from_slice(&seen[..free]);
            self.held = seen.len() - free;
            if self.held == keys.len() {
                self.held = 0;
                return (out.into(), true);
            }
        }
        (out.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(keys: &Keys, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut finder = Finder::new(keys.clone());
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, found) = finder.pass(Bytes::copy_from_slice(piece));
            out.extend(bytes);
            if found {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!(parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
        assert_eq!(parse("a,ctrl-@,ctrl-_"), Ok(Keys(vec![b'a', 0, 0x1f])));
        assert_eq!(parse("ctrl-\\"), Ok(Keys(vec![0x1c])));
        assert_eq!(parse(""), Ok(Keys(vec![])));
        for bad in [",", "ab", "ctrl-", "ctrl-pp", "ctrl-1", "ctrl-ü", "\u{1b}", "ctrl-p,"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_lone_first_key_is_passed_on_with_the_next() {
        let keys = Keys::default();
        assert_eq!(typed(&keys, &[b"ab\x10"]), (b"ab".to_vec(), false));
        assert_eq!(typed(&keys, &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed(&keys, &[b"\x10\x10", b"\x11z"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(&keys, &[b"a\x10\x11b"]), (b"a".to_vec(), true));
        assert_eq!(typed(&keys, &[b"\x11\x10"]), (b"\x11".to_vec(), false));
        let none = parse("").unwrap();
        assert_eq!(typed(&none, &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn keys_that_begin_like_themselves() {
        let keys = parse("a,a,b").unwrap();
        assert_eq!(typed(&keys, &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed(&keys, &[b"aac"]), (b"aac".to_vec(), false));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(pieces in proptest::collection::vec("[ab\u{10}\u{11}]{0,6}", 0..8)) {
            let all = pieces.concat().into_bytes();
            let slices: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
            let (out, found) = typed(&Keys::default(), &slices);
            match all.windows(2).position(|w| w == b"\x10\x11") {
                Some(at) => prop_assert_eq!((out, found), (all[..at].to_vec(), true)),
                None => {
                    let held = usize::from(all.last() == Some(&0x10));
                    prop_assert_eq!((out, found), (all[..all.len() - held].to_vec(), false));
                }
            }
        }
    }
}
