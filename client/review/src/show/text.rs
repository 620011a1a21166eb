//! A change as unified text.

use agentd_policy::size::readable_size;

use super::{Compared, Count, harmless, kind, parenthesis, word};
use crate::change::{Change, Content, Entry};
use crate::content::Sides;
use crate::hunks::{Hunk, hunks};
use crate::lines::LineDiff;
use crate::path::escaped;

/// How text is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether escape sequences colour it.
    pub colours: bool,
}

/// What a line is, and so its colour.
#[derive(Clone, Copy)]
enum Line {
    Title,
    Head,
    Added,
    Removed,
    Context,
}

impl Style {
    /// One line; `bytes` are the agent's.
    fn line(self, out: &mut String, line: Line, sign: &str, bytes: &[u8]) {
        let colour = match line {
            _ if !self.colours => "",
            Line::Title => "\x1b[1m",
            Line::Head => "\x1b[36m",
            Line::Added => "\x1b[32m",
            Line::Removed => "\x1b[31m",
            Line::Context => "",
        };
        out.push_str(colour);
        out.push_str(sign);
        harmless(bytes, out, if self.colours { ["\x1b[7m", "\x1b[27m"] } else { [""; 2] });
        out.push_str(if colour.is_empty() { "" } else { "\x1b[0m" });
        out.push('\n');
    }
}

/// The whole of a change: a title, what differs besides content, and the hunks of a text.
pub fn change(change: &Change, sides: &Sides, style: Style) -> String {
    let compared = Compared::of(change, sides);
    let count = match &compared {
        Compared::Text(diff) => Count::Lines { added: diff.added(), removed: diff.removed() },
        Compared::Not(count) => *count,
    };
    let mut out = String::new();
    let from = change.renamed_from.as_ref().map_or_else(String::new, |from| format!("{from} -> "));
    let title = format!("{} {from}{} {}", word(change.action()), change.path, parenthesis(count));
    style.line(&mut out, Line::Title, "", title.trim_end().as_bytes());
    for fact in facts(change, count) {
        style.line(&mut out, Line::Title, "  ", fact.as_bytes());
    }
    if let Compared::Text(diff) = compared {
        for part in hunks(&diff) {
            out.push_str(&hunk(&diff, &part, style));
        }
    }
    out
}

/// One hunk with its head, as `diff -u` has it.
pub fn hunk(diff: &LineDiff<'_>, hunk: &Hunk, style: Style) -> String {
    let mut out = String::new();
    style.line(&mut out, Line::Head, "", head(hunk).as_bytes());
    for (sign, line) in body(diff, hunk) {
        let (sign, kind) = match sign {
            b'+' => ("+", Line::Added),
            b'-' => ("-", Line::Removed),
            _ => (" ", Line::Context),
        };
        style.line(&mut out, kind, sign, line.strip_suffix(b"\n").unwrap_or(line));
        if !line.ends_with(b"\n") {
            style.line(&mut out, Line::Context, "", b"\\ No newline at end of file");
        }
    }
    out
}

/// `@@ -1,3 +1,4 @@`.
pub(super) fn head(hunk: &Hunk) -> String {
    // Of no lines, the number of the one before.
    let range = |range: &std::ops::Range<usize>| {
        format!("{},{}", range.start + usize::from(!range.is_empty()), range.len())
    };
    format!("@@ -{} +{} @@", range(&hunk.before), range(&hunk.after))
}

/// Each line of a hunk with its sign.
pub(super) fn body<'a>(diff: &LineDiff<'a>, hunk: &Hunk) -> Vec<(u8, &'a [u8])> {
    let mut all = Vec::new();
    let mut take = |sign: u8, lines: &[&'a [u8]], start: usize, end: usize| {
        all.extend(lines.get(start..end).unwrap_or_default().iter().map(|line| (sign, *line)));
    };
    let mut at = hunk.before.start;
    for edit in diff.edits.get(hunk.edits.clone()).unwrap_or_default() {
        take(b' ', &diff.before, at, edit.before.start);
        take(b'-', &diff.before, edit.before.start, edit.before.end);
        take(b'+', &diff.after, edit.after.start, edit.after.end);
        at = edit.before.end;
    }
    take(b' ', &diff.before, at, hunk.before.end);
    all
}

/// What differs besides lines.
fn facts(change: &Change, count: Count) -> Vec<String> {
    let mut facts = Vec::new();
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    if let (Some(before), Some(after)) = (before, after) {
        if before.kind != after.kind {
            facts.push(format!("type: {} -> {}", kind(before.kind), kind(after.kind)));
        } else if before.mode != after.mode {
            facts.push(format!("mode: {:04o} -> {:04o}", before.mode, after.mode));
        }
    } else if let Some(entry) = after.or(before) {
        facts.push(format!("{}, mode {:04o}", kind(entry.kind), entry.mode));
    }
    let target = |entry: Option<&Entry>| match entry.map(|entry| &entry.content) {
        Some(Content::Target(target)) => Some(escaped(target)),
        _ => None,
    };
    match (target(before), target(after)) {
        (Some(before), Some(after)) if before != after => facts.push(format!("target: {before} -> {after}")),
        (Some(target), _) | (None, Some(target)) => facts.push(format!("target: {target}")),
        (None, None) => {}
    }
    if matches!(count, Count::Binary | Count::Large(_) | Count::Skipped) {
        let size = |entry: Option<&Entry>| {
            entry.map_or_else(|| "none".to_owned(), |entry| readable_size(entry.size))
        };
        facts.push(format!("size: {} -> {}", size(before), size(after)));
    }
    if change.changed_underneath {
        facts.push("changed in the workspace too, since the session began".to_owned());
    }
    facts
}
