//! Differences between two texts, line by line. The texts may be hostile: what a comparison costs is bounded, and
//! whatever it finds is checked before it is used.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffTag};

/// The most lines of both texts together that are compared; longer ones differ as a whole, but for the lines that both
/// begin and end with. The slowest texts known of this length take about two seconds.
pub const MAX_LINES: usize = 250_000;

/// A bound for texts that are slower than any known: after it the rest differs as a whole.
const MAX_TIME: Duration = Duration::from_secs(3);

/// The most lines of a text: each takes memory, and of hostile texts all are empty.
const MAX_SPLIT: usize = 1_000_000;

/// How much of a file's beginning decides whether it is text.
const SNIFFED: usize = 8 << 10;

/// Lines of `before` that are replaced by lines of `after`; one of both may be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Line numbers, from 0.
    pub before: Range<usize>,
    /// Line numbers, from 0.
    pub after: Range<usize>,
}

/// Two texts and how they differ.
#[derive(Clone, Debug)]
pub struct LineDiff<'a> {
    /// Lines with their newlines.
    pub before: Vec<&'a [u8]>,
    /// Lines with their newlines.
    pub after: Vec<&'a [u8]>,
    /// In order; between two of them are lines that both texts have.
    pub edits: Vec<Edit>,
}

impl<'a> LineDiff<'a> {
    /// Compares two texts.
    pub fn new(before: &'a [u8], after: &'a [u8]) -> Self {
        let (before, after) = (split(before), split(after));
        let whole = trimmed(&before, &after);
        let fits = before.len() + after.len() <= MAX_LINES;
        let edits = if fits { compared(&before, &after) } else { None };
        let edits = edits.unwrap_or_else(|| Vec::from_iter(whole));
        Self { before, after, edits }
    }

    /// How many lines of `after` are new.
    pub fn added(&self) -> u64 {
        self.edits.iter().map(|edit| edit.after.len() as u64).sum()
    }

    /// How many lines of `before` are gone.
    pub fn removed(&self) -> u64 {
        self.edits.iter().map(|edit| edit.before.len() as u64).sum()
    }
}

/// Lines with their newlines; the last may have none.
pub fn split(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// How many lines `bytes` has; a last one without a newline counts.
pub fn count(bytes: &[u8]) -> u64 {
    bytes.split_inclusive(|byte| *byte == b'\n').count() as u64
}

/// Whether `bytes` is shown and merged as a whole only: there is a NUL in the first 8 KiB, they are not UTF-8 and hold
/// control characters besides white space, escape and form feed, or there are more than a million lines.
pub fn is_binary(bytes: &[u8]) -> bool {
    let start = bytes.get(..SNIFFED).unwrap_or(bytes);
    let control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b);
    // The last character may be cut.
    let utf8 =
        |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
    let newlines = || bytes.iter().filter(|byte| **byte == b'\n').count();
    start.contains(&0) || (!utf8(start) && start.iter().any(control)) || newlines() > MAX_SPLIT
}

/// One edit without the lines that both texts begin and end with; `None` if the texts are the same.
fn trimmed(before: &[&[u8]], after: &[&[u8]]) -> Option<Edit> {
    let start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let rest = |lines: &[&[u8]]| lines.len() - start;
    let most = rest(before).min(rest(after));
    let same = before.iter().rev().zip(after.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    let edit = Edit { before: start..before.len() - same, after: start..after.len() - same };
    (!edit.before.is_empty() || !edit.after.is_empty()).then_some(edit)
}

/// Compares by Myers' algorithm with the bounds that git has. `None` if what is found does not make `after` of
/// `before`: a user's files do not depend on a library's heuristics.
fn compared(before: &[&[u8]], after: &[&[u8]]) -> Option<Vec<Edit>> {
    // Numbers instead of lines: this map's hashes are seeded, so that nobody can make lines that collide.
    let mut known = HashMap::new();
    let mut number = |line| {
        let next = known.len();
        *known.entry(line).or_insert(next)
    };
    let old: Vec<usize> = before.iter().map(|line| number(*line)).collect();
    let new: Vec<usize> = after.iter().map(|line| number(*line)).collect();
    let deadline = Instant::now().checked_add(MAX_TIME);
    let mut edits: Vec<Edit> = Vec::new();
    for op in similar::capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline) {
        if op.tag() == DiffTag::Equal {
            continue;
        }
        let (before, after) = (op.old_range(), op.new_range());
        match edits.last_mut().filter(|last| last.before.end == before.start && last.after.end == after.start)
        {
            Some(last) => (last.before.end, last.after.end) = (before.end, after.end),
            None => edits.push(Edit { before, after }),
        }
    }
    is_complete(&old, &new, &edits).then_some(edits)
}

/// Whether the edits are in order and everything between them is in both.
fn is_complete(old: &[usize], new: &[usize], edits: &[Edit]) -> bool {
    let (mut at_old, mut at_new) = (0, 0);
    let end = Edit { before: old.len()..old.len(), after: new.len()..new.len() };
    edits.iter().chain([&end]).all(|edit| {
        let same = old.get(at_old..edit.before.start);
        let holds = same.is_some() && same == new.get(at_new..edit.after.start);
        let forward = edit.before.start <= edit.before.end && edit.after.start <= edit.after.end;
        (at_old, at_new) = (edit.before.end, edit.after.end);
        holds && forward
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(lines: &[u8]) -> Vec<u8> {
        lines.iter().flat_map(|line| [b'a' + line % 5, b'\n']).collect()
    }

    /// What the edits make of `before`.
    fn applied(diff: &LineDiff<'_>) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        for edit in &diff.edits {
            out.extend(diff.before[at..edit.before.start].concat());
            out.extend(diff.after[edit.after.clone()].concat());
            at = edit.before.end;
        }
        out.extend(diff.before[at..].concat());
        out
    }

    #[test]
    fn what_is_binary() {
        assert!(is_binary(b"\x7fELF\0") && is_binary(b"\xff\xfe\x01"));
        for text in
            [&b""[..], b"plain\n", "caf\u{e9}\n".as_bytes(), b"caf\xe9\n", b"\x1b[1mbold\x1b[0m\r\n", b"\x01"]
        {
            assert!(!is_binary(text), "{text:?}");
        }
        assert!(is_binary(&vec![b'\n'; MAX_SPLIT + 1]) && !is_binary(&vec![b'\n'; MAX_SPLIT]));
        let mut cut = vec![b'a'; SNIFFED - 1];
        cut.extend("é\u{1}".as_bytes());
        assert!(!is_binary(&cut), "the last character is cut");
    }

    #[test]
    fn hostile_texts_are_compared_in_bounded_time() {
        let lines = |number: usize, line: &dyn Fn(usize) -> String| -> Vec<u8> {
            (0..number).flat_map(|at| line(at).into_bytes()).collect()
        };
        const N: usize = MAX_LINES / 2;
        let pseudo = |at: usize, salt: u64| {
            let mut x = at as u64 ^ salt;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
            (
                "every second",
                lines(N, &|at| format!("{}\n", if at % 2 == 0 { at } else { 0 })),
                lines(N, &|at| format!("{}\n", if at % 2 == 0 { at } else { 1 })),
            ),
            (
                "two lines",
                lines(N, &|at| format!("{}\n", pseudo(at, 1) % 2)),
                lines(N, &|at| format!("{}\n", pseudo(at, 2) % 2)),
            ),
            (
                "ten lines",
                lines(N, &|at| format!("{}\n", pseudo(at, 1) % 10)),
                lines(N, &|at| format!("{}\n", pseudo(at, 2) % 10)),
            ),
            ("reversed", lines(N, &|at| format!("{at}\n")), lines(N, &|at| format!("{}\n", N - at))),
            (
                "shuffled",
                lines(N, &|at| format!("{}\n", pseudo(at, 1) % N as u64)),
                lines(N, &|at| format!("{}\n", pseudo(at, 2) % N as u64)),
            ),
            (
                "blocks",
                lines(N, &|at| format!("{}\n", at / 700 % 3)),
                lines(N, &|at| format!("{}\n", at / 501 % 3)),
            ),
        ];
        for (name, before, after) in &cases {
            let start = Instant::now();
            let diff = LineDiff::new(before, after);
            let took = start.elapsed();
            println!("{name}: {took:?}, {} edits", diff.edits.len());
            assert_eq!(applied(&diff), *after, "{name}");
            assert!(took < MAX_TIME * 10, "{name}: {took:?}");
        }
    }

    proptest! {
        #[test]
        fn edits_make_after_of_before(a in proptest::collection::vec(any::<u8>(), 0..80), b in proptest::collection::vec(any::<u8>(), 0..80), end in any::<bool>()) {
            let (before, mut after) = (text(&a), text(&b));
            if end {
                after.pop();
            }
            let diff = LineDiff::new(&before, &after);
            prop_assert_eq!(&applied(&diff), &after);
            prop_assert_eq!(diff.before.len() as u64 + diff.added(), diff.after.len() as u64 + diff.removed());
            prop_assert!(diff.edits.windows(2).all(|pair| pair[0].before.end < pair[1].before.start));
        }

        #[test]
        fn any_bytes(a in proptest::collection::vec(any::<u8>(), 0..200), b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let diff = LineDiff::new(&a, &b);
            prop_assert_eq!(applied(&diff), b);
        }
    }
}
