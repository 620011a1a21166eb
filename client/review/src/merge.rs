//! Three-way merge of texts.

use std::collections::BTreeSet;

use crate::lines::{Edit, LineDiff, is_binary, split};

/// The length that conflict markers have in git.
const MARKER: usize = 7;

/// A merged text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The text, with markers around each conflict.
    pub bytes: Vec<u8>,
    /// How many conflicts there are.
    pub conflicts: usize,
}

/// Merges what the workspace's owner (`ours`) and the session called `session` (`theirs`) made of `base`. Without a
/// base every difference is a conflict. `None` for binary files of which both sides have their own: these are not
/// merged. A line of the texts that looks like a marker makes the markers longer than it.
pub fn three_way(base: Option<&[u8]>, ours: &[u8], theirs: &[u8], session: &str) -> Option<Merged> {
    let clean = |bytes: &[u8]| Some(Merged { bytes: bytes.to_vec(), conflicts: 0 });
    match base {
        _ if ours == theirs => return clean(ours),
        Some(base) if base == ours => return clean(theirs),
        Some(base) if base == theirs => return clean(ours),
        _ => {}
    }
    if base.into_iter().chain([ours, theirs]).any(is_binary) {
        return None;
    }
    let mut out = Writer::new(base, ours, theirs, session);
    match base {
        Some(base) => with_base(&LineDiff::new(base, ours), &LineDiff::new(base, theirs), &mut out),
        None => without_base(&LineDiff::new(ours, theirs), &mut out),
    }
    Some(Merged { bytes: out.bytes, conflicts: out.conflicts })
}

fn without_base(diff: &LineDiff<'_>, out: &mut Writer<'_>) {
    let mut at = 0;
    for edit in &diff.edits {
        out.lines(part(&diff.before, at, edit.before.start));
        out.conflict(
            part(&diff.before, edit.before.start, edit.before.end),
            part(&diff.after, edit.after.start, edit.after.end),
        );
        at = edit.before.end;
    }
    out.lines(part(&diff.before, at, diff.before.len()));
}

/// Edits of both sides that overlap or touch are a region. A region that only one side changed, or both in the same
/// way, is no conflict.
fn with_base(ours: &LineDiff<'_>, theirs: &LineDiff<'_>, out: &mut Writer<'_>) {
    let (mut left, mut right) = (Side::new(ours), Side::new(theirs));
    let mut at = 0;
    while let Some(start) = [left.next_start(), right.next_start()].into_iter().flatten().min() {
        out.lines(part(&ours.before, at, start));
        let (from_left, from_right) = (left.position(start), right.position(start));
        let mut end = start;
        while left.take(&mut end) | right.take(&mut end) {}
        let base = part(&ours.before, start, end);
        let mine = part(&ours.after, from_left, left.position(end));
        let other = part(&theirs.after, from_right, right.position(end));
        match (mine == other || other == base, mine == base) {
            (true, _) => out.lines(mine),
            (false, true) => out.lines(other),
            (false, false) => out.conflict(mine, other),
        }
        at = end;
    }
    out.lines(part(&ours.before, at, ours.before.len()));
}

/// One side's edits, and where in its text the base's lines are by now.
struct Side<'a> {
    edits: std::iter::Peekable<std::slice::Iter<'a, Edit>>,
    /// The ends of the last edit that was taken, in the base and in the side's text.
    last: (usize, usize),
}

impl<'a> Side<'a> {
    fn new(diff: &'a LineDiff<'_>) -> Self {
        Self { edits: diff.edits.iter().peekable(), last: (0, 0) }
    }

    fn next_start(&mut self) -> Option<usize> {
        self.edits.peek().map(|edit| edit.before.start)
    }

    /// Takes the next edit if it begins at `end` or before, which it then extends.
    fn take(&mut self, end: &mut usize) -> bool {
        let Some(edit) = self.edits.next_if(|edit| edit.before.start <= *end) else { return false };
        self.last = (edit.before.end, edit.after.end);
        *end = edit.before.end.max(*end);
        true
    }

    /// Where the base's line `line`, behind all that was taken, is in the side's text.
    fn position(&self, line: usize) -> usize {
        self.last.1 + line.saturating_sub(self.last.0)
    }
}

fn part<'l, 'a>(lines: &'l [&'a [u8]], start: usize, end: usize) -> &'l [&'a [u8]] {
    lines.get(start..end).unwrap_or_default()
}

struct Writer<'a> {
    bytes: Vec<u8>,
    conflicts: usize,
    marker: usize,
    session: &'a str,
}

impl<'a> Writer<'a> {
    fn new(base: Option<&[u8]>, ours: &[u8], theirs: &[u8], session: &'a str) -> Self {
        let run = |line: &&[u8]| {
            let first = line.first().copied().filter(|byte| b"<=>|".contains(byte));
            line.iter().take_while(|byte| Some(**byte) == first).count()
        };
        let texts = base.into_iter().chain([ours, theirs]);
        let taken: BTreeSet<usize> = texts.flat_map(split).map(|line| run(&line)).collect();
        let marker = (MARKER..).find(|length| !taken.contains(length)).unwrap_or(MARKER);
        Self { bytes: Vec::new(), conflicts: 0, marker, session }
    }

    fn lines(&mut self, lines: &[&[u8]]) {
        self.bytes.extend(lines.concat());
    }

    /// The lines that both sides begin or end with are no part of the conflict.
    fn conflict(&mut self, mine: &[&[u8]], other: &[&[u8]]) {
        let start = mine.iter().zip(other).take_while(|(a, b)| a == b).count();
        let most = mine.len().min(other.len()) - start;
        let end = mine.iter().rev().zip(other.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
        self.lines(part(mine, 0, start));
        self.mark('<', " workspace");
        self.lines(part(mine, start, mine.len() - end));
        self.mark('=', "");
        self.lines(part(other, start, other.len() - end));
        self.mark('>', &format!(" session {}", self.session));
        self.lines(part(mine, mine.len() - end, mine.len()));
        self.conflicts += 1;
    }

    /// A marker is a line of its own, also behind a last line without a newline.
    fn mark(&mut self, sign: char, label: &str) {
        if self.bytes.last().is_some_and(|byte| *byte != b'\n') {
            self.bytes.push(b'\n');
        }
        self.bytes.extend(sign.to_string().repeat(self.marker).bytes());
        self.bytes.extend(label.bytes());
        self.bytes.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(base: Option<&str>, ours: &str, theirs: &str) -> (String, usize) {
        let merged =
            three_way(base.map(str::as_bytes), ours.as_bytes(), theirs.as_bytes(), "amber-fox").unwrap();
        (String::from_utf8(merged.bytes).unwrap(), merged.conflicts)
    }

    #[test]
    fn changes_apart_from_each_other_are_merged() {
        let base = "1\n2\n3\n4\n5\n6\n7\n";
        let (text, conflicts) = merged(Some(base), "one\n2\n3\n4\n5\n6\n7\n8\n", "1\n2\n3\nfour\n5\n7\n");
        assert_eq!((text.as_str(), conflicts), ("one\n2\n3\nfour\n5\n7\n8\n", 0));
    }

    #[test]
    fn conflicts_have_markers() {
        let (text, conflicts) = merged(Some("1\n2\n3\n"), "1\nours\n3\n", "1\ntheirs\n3\n");
        let expected = "1\n<<<<<<< workspace\nours\n=======\ntheirs\n>>>>>>> session amber-fox\n3\n";
        assert_eq!((text.as_str(), conflicts), (expected, 1));
        let (text, conflicts) = merged(None, "a\nx", "a\ny\n");
        assert_eq!(
            (text.as_str(), conflicts),
            ("a\n<<<<<<< workspace\nx\n=======\ny\n>>>>>>> session amber-fox\n", 1)
        );
        let (_, conflicts) = merged(Some("1\n2\n3\n"), "1\n3\n", "1\nchanged\n3\n");
        assert_eq!(conflicts, 1, "deleted and changed");
    }

    #[test]
    fn markers_cannot_be_forged() {
        let (text, conflicts) =
            merged(Some("1\n"), "ours\n=======\n>>>>>>> session amber-fox\n", "theirs\n<<<<<<<< x\n");
        assert_eq!(conflicts, 1);
        assert!(text.starts_with("<<<<<<<<< workspace\n") && text.contains("\n=========\n"), "{text}");
    }

    #[test]
    fn binary_files_are_not_merged() {
        assert_eq!(three_way(Some(b"\0a"), b"\0b", b"\0c", "s"), None);
        assert_eq!(
            three_way(Some(b"\0a"), b"\0a", b"\0c", "s"),
            Some(Merged { bytes: b"\0c".to_vec(), conflicts: 0 })
        );
    }

    proptest! {
        #[test]
        fn one_side_alone_is_taken(base in "[ab\n]{0,60}", ours in "[ab\n]{0,60}") {
            prop_assert_eq!(merged(Some(&base), &ours, &base), (ours.clone(), 0));
            prop_assert_eq!(merged(Some(&base), &base, &ours), (ours.clone(), 0));
            prop_assert_eq!(merged(Some(&base), &ours, &ours), (ours.clone(), 0));
            prop_assert_eq!(merged(None, &ours, &ours), (ours, 0));
        }

        /// Each side's text is what is left when every conflict is decided for it, where the other side kept the base.
        #[test]
        fn nothing_is_lost(base in "[abc\n]{0,60}", ours in "[abc\n]{0,60}", theirs in "[abc\n]{0,60}") {
            let (text, conflicts) = merged(Some(&base), &ours, &theirs);
            prop_assert_eq!(text.matches("<<<<<<< workspace\n").count(), conflicts);
            for line in LineDiff::new(base.as_bytes(), ours.as_bytes()).edits.iter().flat_map(|edit| split(ours.as_bytes())[edit.after.clone()].to_vec()) {
                prop_assert!(text.as_bytes().windows(line.len()).any(|window| window == line), "{line:?} of ours");
            }
            for line in LineDiff::new(base.as_bytes(), theirs.as_bytes()).edits.iter().flat_map(|edit| split(theirs.as_bytes())[edit.after.clone()].to_vec()) {
                prop_assert!(text.as_bytes().windows(line.len()).any(|window| window == line), "{line:?} of theirs");
            }
        }

        #[test]
        fn without_a_base_both_are_in_it(ours in "[abc\n]{0,60}", theirs in "[abc\n]{0,60}") {
            let (text, _) = merged(None, &ours, &theirs);
            let side = |keep: bool| {
                let (mut out, mut in_ours, mut in_theirs) = (String::new(), true, true);
                for line in text.split_inclusive('\n') {
                    match line.get(..7) {
                        Some("<<<<<<<") => in_theirs = false,
                        Some("=======") => (in_ours, in_theirs) = (false, true),
                        Some(">>>>>>>") => in_ours = true,
                        _ if if keep { in_ours } else { in_theirs } => out.push_str(line),
                        _ => {}
                    }
                }
                out
            };
            let (mine, other) = (side(true), side(false));
            prop_assert_eq!(mine.trim_end_matches('\n'), ours.trim_end_matches('\n'));
            prop_assert_eq!(other.trim_end_matches('\n'), theirs.trim_end_matches('\n'));
        }

        #[test]
        fn any_bytes(base in proptest::collection::vec(any::<u8>(), 0..80), ours in proptest::collection::vec(any::<u8>(), 0..80), theirs in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = three_way(Some(&base), &ours, &theirs, "s");
            let _ = three_way(None, &ours, &theirs, "s");
        }
    }
}
