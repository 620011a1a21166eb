//! The entries of git's index, versions 2 to 4 (gitformat-index(5)). Its extensions are not read.

/// A gitlink's mode: a repository of its own stands there.
pub const GITLINK: u32 = 0o160_000;
/// The type bits of a mode.
pub const TYPE: u32 = 0o170_000;

#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the working tree.
    pub path: Vec<u8>,
    /// Type and permissions.
    pub mode: u32,
    /// The object's name.
    pub object: Vec<u8>,
}

/// Hands every entry of the index in `bytes` to `each`; object names have `hash` bytes. `None` if it is malformed.
pub fn entries(bytes: &[u8], hash: usize, mut each: impl FnMut(Entry)) -> Option<()> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (version, rest) = number(rest)?;
    let (count, mut rest) = number(rest)?;
    if magic != b"DIRC" || !(2..=4).contains(&version) {
        return None;
    }
    let mut before: Vec<u8> = Vec::new();
    for _ in 0..count {
        let start = rest;
        let stat = rest.get(..40)?;
        let mode = u32::from_be_bytes(stat.get(24..28)?.try_into().ok()?);
        let object = rest.get(40..40 + hash)?.to_vec();
        let flags = u16::from_be_bytes(rest.get(40 + hash..42 + hash)?.try_into().ok()?);
        let extended = usize::from(version >= 3 && flags & 0x4000 != 0) * 2;
        rest = rest.get(42 + hash + extended..)?;
        let path = if version == 4 {
            let (strip, after) = offset(rest)?;
            let kept = before.len().checked_sub(strip)?;
            let end = after.iter().position(|b| *b == 0)?;
            let path = [before.get(..kept)?, after.get(..end)?].concat();
            rest = after.get(end + 1..)?;
            path
        } else {
            let end = rest.iter().position(|b| *b == 0)?;
            let path = rest.get(..end)?.to_vec();
            // One to eight NULs, so that an entry's length is a multiple of eight.
            let length = 42 + hash + extended + end;
            rest = start.get(length / 8 * 8 + 8..)?;
            path
        };
        before.clone_from(&path);
        each(Entry { path, mode, object });
    }
    Some(())
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// A number as pack files have it: seven bits a byte, one added at each further byte.
fn offset(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (mut value, mut at) = (0_usize, 0);
    loop {
        let byte = *bytes.get(at)?;
        value = value.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        at += 1;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at..)?));
        }
        value = value.checked_add(1)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(version: u32, paths: &[&str]) -> Vec<u8> {
        let mut bytes =
            [b"DIRC".as_slice(), &version.to_be_bytes(), &u32::try_from(paths.len()).unwrap().to_be_bytes()]
                .concat();
        let mut before = "";
        for path in paths {
            let start = bytes.len();
            bytes.extend([0; 24]);
            bytes.extend(0o160_000_u32.to_be_bytes());
            bytes.extend([0; 12]);
            bytes.extend([7; 20]);
            bytes.extend(u16::try_from(path.len()).unwrap().to_be_bytes());
            if version == 4 {
                let same = path.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
                bytes.push(u8::try_from(before.len() - same).unwrap());
                bytes.extend(&path.as_bytes()[same..]);
                bytes.push(0);
                before = path;
            } else {
                bytes.extend(path.as_bytes());
                let length = bytes.len() - start;
                bytes.extend(vec![0; length / 8 * 8 + 8 - length]);
            }
        }
        bytes.extend([0; 20]);
        bytes
    }

    fn paths(bytes: &[u8]) -> Option<Vec<String>> {
        let mut paths = Vec::new();
        entries(bytes, 20, |entry| {
            assert_eq!((entry.mode, entry.object.len()), (GITLINK, 20));
            paths.push(String::from_utf8(entry.path).unwrap());
        })?;
        Some(paths)
    }

    #[test]
    fn every_version_is_read() {
        let names = ["a", "a/bcdefg", "a/bcdefgh", "sub"];
        for version in 2..=4 {
            assert_eq!(paths(&index(version, &names)).unwrap(), names, "{version}");
        }
        assert_eq!(paths(&index(5, &names)), None);
    }

    proptest! {
        #[test]
        fn nonsense_ends(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 2_u32..5) {
            let _ = entries(&bytes, 20, |_| {});
            let head = index(version, &["a/b", "a/c"]);
            bytes.splice(0..0, head[..60].iter().copied());
            let _ = entries(&bytes, 20, |_| {});
        }
    }
}
