//! A patch that `git apply` takes. Its bytes are the files' own: it is for a file or a pipe, never for a terminal.

use std::collections::BTreeMap;
use std::io;

use sha1::{Digest as _, Sha1};

use super::text::{body, head};
use crate::change::{Change, Changes, Entry, Kind};
use crate::content::{Budget, Held, Sides};
use crate::danger::is_git;
use crate::hunks::hunks;
use crate::lines::{LineDiff, is_binary};
use crate::path::FilePath;
use crate::trees::Trees;

/// The largest file in a patch, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// A change that is not in the patch, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The file that it is about.
    pub path: FilePath,
    /// Why, as the end of a sentence.
    pub reason: &'static str,
}

/// On one line, for a person.
impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: not in the patch: {}", self.path, self.reason)
    }
}

/// A file as git has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `100644`, `100755` or `120000`, in octal.
    pub mode: u32,
    /// The file's content, or a link's target.
    pub bytes: Vec<u8>,
}

/// Writes the patch to `sink`, a file after the other; what cannot be in it comes back.
///
/// # Errors
/// Those of `sink`.
pub fn write(
    changes: &Changes,
    trees: &Trees,
    budget: &mut Budget,
    sink: &mut dyn io::Write,
) -> io::Result<Vec<LeftOut>> {
    budget.file = budget.file.max(MAX_FILE);
    let deleted = changes.0.iter().filter(|change| change.after.is_none());
    let deleted: BTreeMap<&FilePath, &Change> = deleted.map(|change| (&change.path, change)).collect();
    let moves = |change: &'_ Change| {
        let from = deleted.get(change.renamed_from.as_ref().filter(|_| change.before.is_none())?)?;
        Some((from.path.clone(), from.before.as_ref().map(mode)?, change.after.as_ref().map(mode)?))
    };
    let moved: BTreeMap<FilePath, &FilePath> = changes
        .0
        .iter()
        .filter(|change| !names_git(&change.path))
        .filter_map(|change| Some((moves(change)?.0, &change.path)))
        .collect();
    let mut left_out = Vec::new();
    for change in &changes.0 {
        let mut leave = |reason| left_out.push(LeftOut { path: change.path.clone(), reason });
        if names_git(&change.path) {
            leave("git has no such path");
            continue;
        }
        if let Some((from, old, new)) = moves(change)
            && moved.get(&from) == Some(&&change.path)
        {
            sink.write_all(&renamed(&from, &change.path, old, new))?;
            continue;
        }
        if moved.contains_key(&change.path) && change.after.is_none() {
            continue;
        }
        match files(change, trees, budget) {
            Ok((before, after)) => {
                sink.write_all(&difference(&change.path, before.as_ref(), after.as_ref()))?
            }
            Err(Some(reason)) => leave(reason),
            Err(None) => {}
        }
    }
    sink.flush()?;
    Ok(left_out)
}

fn names_git(path: &FilePath) -> bool {
    path.components().any(is_git)
}

/// The mode that git keeps of a file.
fn mode(entry: &Entry) -> u32 {
    match (entry.kind, entry.mode & 0o100) {
        (Kind::Symlink, _) => 0o120_000,
        (_, 0) => 0o100_644,
        _ => 0o100_755,
    }
}

/// Both sides as git has them, or why there are none: no reason is needed for a directory that has files.
fn files(
    change: &Change,
    trees: &Trees,
    budget: &mut Budget,
) -> Result<(Option<Blob>, Option<Blob>), Option<&'static str>> {
    let special = |entry: &Option<Entry>| {
        entry.as_ref().is_some_and(|entry| matches!(entry.kind, Kind::Fifo | Kind::Socket | Kind::Device))
    };
    if special(&change.after) {
        return Err(Some("git has no FIFOs, sockets and devices"));
    }
    let is_file = |entry: &&Entry| matches!(entry.kind, Kind::File | Kind::Symlink);
    let (old, new) = (change.before.as_ref().filter(is_file), change.after.as_ref().filter(is_file));
    if old.is_none() && new.is_none() {
        return Err(None);
    }
    let sides = Sides::read(change, trees, budget);
    let blob = |entry: Option<&Entry>, held: Held| match entry {
        None => Ok::<_, Option<&'static str>>(None),
        Some(entry) => Ok(Some(Blob { mode: mode(entry), bytes: bytes(held).map_err(Some)? })),
    };
    let (before, after) = (blob(old, sides.before)?, blob(new, sides.after)?);
    let same = |(before, after): (&Blob, &Blob)| before.mode == after.mode && before.bytes == after.bytes;
    match before.as_ref().zip(after.as_ref()).is_some_and(same) {
        true => Err(Some("git keeps no such permission bits")),
        false => Ok((before, after)),
    }
}

fn bytes(held: Held) -> Result<Vec<u8>, &'static str> {
    match held {
        Held::Nothing => Ok(Vec::new()),
        Held::Bytes(bytes) => Ok(bytes),
        Held::Large(_) => Err("it is larger than 64 MiB"),
        Held::Changed => Err("it changed since it was compared"),
        Held::Unreadable => Err("it cannot be read"),
        Held::Skipped => Err("there is too much to write"),
    }
}

fn renamed(from: &FilePath, to: &FilePath, old: u32, new: u32) -> Vec<u8> {
    let modes = if old == new { String::new() } else { format!("old mode {old:o}\nnew mode {new:o}\n") };
    let (a, b) = (quoted("a/", from), quoted("b/", to));
    let names = format!("rename from {}\nrename to {}\n", quoted("", from), quoted("", to));
    format!("diff --git {a} {b}\n{modes}similarity index 100%\n{names}").into_bytes()
}

/// One file's part of the patch. Without `before` it is new, without `after` deleted; a file of another type is
/// deleted first.
pub fn difference(path: &FilePath, before: Option<&Blob>, after: Option<&Blob>) -> Vec<u8> {
    if let (Some(old), Some(new)) = (before, after)
        && (old.mode == 0o120_000) != (new.mode == 0o120_000)
    {
        return [difference(path, before, None), difference(path, None, after)].concat();
    }
    let (a, b) = (quoted("a/", path), quoted("b/", path));
    let mut out = format!("diff --git {a} {b}\n");
    match (before, after) {
        (Some(old), None) => out += &format!("deleted file mode {:o}\n", old.mode),
        (None, Some(new)) => out += &format!("new file mode {:o}\n", new.mode),
        (Some(old), Some(new)) if old.mode != new.mode => {
            out += &format!("old mode {:o}\nnew mode {:o}\n", old.mode, new.mode);
        }
        _ => {}
    }
    let content = |blob: Option<&'_ Blob>| blob.map_or_else(Vec::new, |blob| blob.bytes.clone());
    let (old, new) = (content(before), content(after));
    if old == new && before.is_some() && after.is_some() {
        return out.into_bytes();
    }
    out += &format!("index {}..{}\n", object(before), object(after));
    let mut out = out.into_bytes();
    if old == new {
        return out;
    }
    if is_binary(&old) || is_binary(&new) || old.contains(&0) || new.contains(&0) {
        out.extend(b"GIT binary patch\n");
        literal(&new, &mut out);
        literal(&old, &mut out);
        return out;
    }
    let name = |blob: Option<&Blob>, name: String| if blob.is_some() { name } else { "/dev/null".to_owned() };
    out.extend(format!("--- {}\n+++ {}\n", name(before, a), name(after, b)).bytes());
    let diff = LineDiff::new(&old, &new);
    for hunk in hunks(&diff) {
        out.extend(head(&hunk).bytes().chain([b'\n']));
        for (sign, line) in body(&diff, &hunk) {
            out.push(sign);
            out.extend(line);
            if !line.ends_with(b"\n") {
                out.extend(b"\n\\ No newline at end of file\n");
            }
        }
    }
    out
}

/// The name of git's object with the file's bytes; zeros for no file.
fn object(blob: Option<&Blob>) -> String {
    let Some(blob) = blob else { return "0".repeat(40) };
    let mut sum = Sha1::new();
    sum.update(format!("blob {}\0", blob.bytes.len()));
    sum.update(&blob.bytes);
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as zlib packs them, in lines of base 85, each with the number of its bytes as a letter; then an empty line.
fn literal(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 85] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    out.extend(format!("literal {}\n", bytes.len()).bytes());
    for line in miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6).chunks(52) {
        let length = u8::try_from(line.len()).unwrap_or_default();
        out.push(if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 });
        for word in line.chunks(4) {
            let byte = |at: usize| u32::from(word.get(at).copied().unwrap_or_default());
            let mut value = byte(0) << 24 | byte(1) << 16 | byte(2) << 8 | byte(3);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS.get(value as usize % 85).copied().unwrap_or_default();
                value /= 85;
            }
            out.extend(digits);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// A path as git reads it: in quotes, with escapes, unless it is of letters, digits and a few signs.
fn quoted(prefix: &str, path: &FilePath) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,=@%".contains(byte);
    let bytes = path.as_bytes();
    if bytes.iter().all(plain) {
        return format!("{prefix}{}", String::from_utf8_lossy(bytes));
    }
    let mut out = format!("\"{prefix}");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => out.push(char::from(*byte)),
            other => out += &format!("\\{other:03o}"),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
