//! The files by which git leads from one directory to another, each read as git reads it
//! (gitrepository-layout(5)). What is in them may have been written by an agent: what is not exactly of the form is
//! nothing.

use std::str::from_utf8;

use crate::names::AbsPath;

/// The longest file that names one path: `.git`, `commondir`, `gitdir`.
pub const MAX_POINTER: u64 = 4 << 10;
/// The longest file of alternates.
pub const MAX_ALTERNATES: u64 = 64 << 10;
/// The most alternates.
pub const ALTERNATES: usize = 64;

/// Where the file `.git` of a working tree leads, seen from `dir`, the directory that it is in.
pub fn gitfile(text: &[u8], dir: &AbsPath) -> Option<AbsPath> {
    resolve(dir, one_line(text.strip_prefix(b"gitdir: ")?)?)
}

/// Where `commondir` or `gitdir` in the directory `dir` leads.
pub fn pointer(text: &[u8], dir: &AbsPath) -> Option<AbsPath> {
    resolve(dir, one_line(text)?)
}

/// The directories of `info/alternates` in the object store `objects`, and whether those are all: a line that cannot be
/// read is left out.
pub fn alternates(text: &[u8], objects: &AbsPath) -> (Vec<AbsPath>, bool) {
    let (mut all, mut whole) = (Vec::new(), true);
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
        let unquoted = if line.starts_with(b"\"") { unquote(line) } else { Some(line.to_vec()) };
        match unquoted.and_then(|line| resolve(objects, from_utf8(&line).ok()?)) {
            Some(path) if all.len() < ALTERNATES => {
                if !all.contains(&path) {
                    all.push(path);
                }
            }
            _ => whole = false,
        }
    }
    (all, whole)
}

/// `path` seen from the directory `from`, by its names alone: opening it follows no link, so that it leads where
/// the kernel would go.
pub fn resolve(from: &AbsPath, path: &str) -> Option<AbsPath> {
    let mut names: Vec<&str> = match path.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.components().collect(),
    };
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    (!path.is_empty()).then(|| AbsPath::parse(&format!("/{}", names.join("/"))).ok()).flatten()
}

/// The one line that a file has; git takes off what ends it.
fn one_line(text: &[u8]) -> Option<&str> {
    let end = text.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    let line = from_utf8(text.get(..end)?).ok()?;
    (!line.is_empty() && !line.contains(['\n', '\0'])).then_some(line)
}

/// A line in quotes, as in C (git's `unquote_c_style`).
fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = line.strip_prefix(b"\"")?.strip_suffix(b"\"")?.iter().copied();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                b'a' => 7,
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 11,
                b'f' => 12,
                b'r' => b'\r',
                kept @ (b'\\' | b'"') => kept,
                first @ b'0'..=b'3' => {
                    let rest = [bytes.next()?, bytes.next()?];
                    rest.iter().try_fold(first - b'0', |sum, digit| {
                        matches!(digit, b'0'..=b'7').then(|| (sum << 3) | (digit - b'0'))
                    })?
                }
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn abs(text: &str) -> AbsPath {
        AbsPath::parse(text).unwrap()
    }

    fn as_text(path: Option<AbsPath>) -> Option<String> {
        path.map(|path| path.to_string())
    }

    #[test]
    fn a_gitfile_is_one_line_of_a_form() {
        let read = |text: &[u8]| as_text(gitfile(text, &abs("/w/t")));
        for (text, path) in [
            (&b"gitdir: /m/.git/worktrees/t\n"[..], "/m/.git/worktrees/t"),
            (b"gitdir: ../.git/modules/x", "/w/.git/modules/x"),
            (b"gitdir: ../../../../../x\r\n\n", "/x"),
            // No shell reads it.
            (b"gitdir: ~/private/.git", "/w/t/~/private/.git"),
            (b"gitdir:  /x", "/w/t/ /x"),
        ] {
            assert_eq!(read(text).as_deref(), Some(path));
        }
        for wrong in [
            &b""[..],
            b"gitdir: ",
            b"gitdir: \n",
            b"gitdir:/x",
            b" gitdir: /x",
            b"gitdir: /x\ngitdir: /y",
            b"gitdir: /x\n/y\n",
            b"gitdir: /x\0",
            b"gitdir: /\xff",
            b"gitdir: /a\x1b[2Jb",
            b"GITDIR: /x",
        ] {
            assert_eq!(read(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn alternates_are_as_git_reads_them() {
        let text = b"# none\n../../../o/objects\n/p/objects\n\n\"/q/a\\\"b\\303\\274\"\n../../../o/objects\n\"/bad\n\"/x\\\"\n/\xff\n";
        let (all, whole) = alternates(text, &abs("/w/.git/objects"));
        let all: Vec<_> = all.iter().map(AbsPath::as_str).collect();
        assert_eq!((all, whole), (vec!["/o/objects", "/p/objects", "/q/a\"b\u{fc}"], false));
        let many: String = (0..=ALTERNATES).map(|n| format!("/a/{n}\n")).collect();
        let (all, whole) = alternates(many.as_bytes(), &abs("/w"));
        assert_eq!((all.len(), whole), (ALTERNATES, false));
        assert!(alternates(b"/a\n/b", &abs("/w")).1);
    }

    proptest! {
        #[test]
        fn hostile_bytes_lead_to_paths_or_nowhere(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = abs("/w/t");
            let _ = (pointer(&bytes, &dir), alternates(&bytes, &dir));
            let _ = gitfile(&[b"gitdir: ", bytes.as_slice()].concat(), &dir);
        }

        #[test]
        fn what_leads_there_by_name_is_resolved(names in proptest::collection::vec("[a-z]{1,4}|\\.\\.|\\.", 1..8)) {
            let path = names.join("/");
            let found = resolve(&abs("/a/b"), &path).unwrap();
            prop_assert_eq!(resolve(&abs("/"), &format!("/a/b/{path}")), Some(found));
        }
    }
}
