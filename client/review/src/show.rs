//! What a person, a program and git see of changes. What is made for a terminal holds no control character but tabs,
//! newlines and, where colours are asked for, those of its own.

pub mod json;
pub mod patch;
pub mod stat;
pub mod summary;
pub mod text;

use crate::change::{Action, Change, Changes, Kind};
use crate::content::{Budget, Held, Sides};
use crate::lines::{self, LineDiff};
use crate::path::is_invisible;
use crate::trees::Trees;

/// How much of a change's content differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Lines of a text.
    Lines {
        /// Lines that are new.
        added: u64,
        /// Those that are gone.
        removed: u64,
    },
    /// It is no text, before or after.
    Binary,
    /// It was not compared, for its size in bytes.
    Large(u64),
    /// It was not compared: the review's budget was used up.
    Skipped,
    /// It was not compared: it changed since the trees were.
    Changed,
    /// It was not compared: the caller may not read it.
    Unreadable,
    /// No content differs: a mode, a directory, a rename.
    Nothing,
}

impl Count {
    /// Compares the sides of `change`.
    pub fn of(change: &Change, sides: &Sides) -> Self {
        match Compared::of(change, sides) {
            Compared::Text(diff) => Self::Lines { added: diff.added(), removed: diff.removed() },
            Compared::Not(count) => count,
        }
    }
}

/// Counts each change's lines, in order. What `budget` does not suffice for is [`Count::Skipped`].
pub fn counts(changes: &Changes, trees: &Trees, budget: &mut Budget) -> Vec<Count> {
    let count = |change| match has_text(change) {
        true => Count::of(change, &Sides::read(change, trees, budget)),
        false => Count::Nothing,
    };
    changes.0.iter().map(count).collect()
}

/// Whether regular files' contents differ.
fn has_text(change: &Change) -> bool {
    let file =
        |entry: &Option<crate::change::Entry>| entry.as_ref().is_some_and(|entry| entry.kind == Kind::File);
    match change.action() {
        Action::Mode => false,
        // A moved file is the same one.
        Action::Renamed => change.before.is_some(),
        _ => file(&change.before) || file(&change.after),
    }
}

/// The contents of a change.
enum Compared<'a> {
    Text(LineDiff<'a>),
    Not(Count),
}

impl<'a> Compared<'a> {
    fn of(change: &Change, sides: &'a Sides) -> Self {
        if !has_text(change) {
            return Self::Not(Count::Nothing);
        }
        let file = |entry: &Option<crate::change::Entry>, held: &'a Held| match entry {
            Some(entry) if entry.kind != Kind::File => Ok(&[][..]),
            _ => bytes(held),
        };
        match (file(&change.before, &sides.before), file(&change.after, &sides.after)) {
            (Err(count), _) | (_, Err(count)) => Self::Not(count),
            (Ok(before), Ok(after)) if lines::is_binary(before) || lines::is_binary(after) => {
                Self::Not(Count::Binary)
            }
            (Ok(before), Ok(after)) => Self::Text(LineDiff::new(before, after)),
        }
    }
}

fn bytes(held: &Held) -> Result<&[u8], Count> {
    match held {
        Held::Nothing => Ok(&[]),
        Held::Bytes(bytes) => Ok(bytes),
        Held::Large(size) => Err(Count::Large(*size)),
        Held::Changed => Err(Count::Changed),
        Held::Unreadable => Err(Count::Unreadable),
        Held::Skipped => Err(Count::Skipped),
    }
}

/// `bytes` for a terminal: what is no UTF-8, a control character other than tab, or invisible is written as an escape
/// (`\xff`, `\x1b`, `\u{202e}`), with `before` and `after` around it.
fn harmless(bytes: &[u8], out: &mut String, [before, after]: [&str; 2]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => out.push('\t'),
                control if control.is_control() => {
                    out.push_str(&format!("{before}\\x{:02x}{after}", u32::from(control)));
                }
                hidden if is_invisible(hidden) => {
                    out.push_str(&format!("{before}\\u{{{:x}}}{after}", u32::from(hidden)));
                }
                plain => out.push(plain),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("{before}\\x{byte:02x}{after}"));
        }
    }
}

/// `1,204`: digits in groups.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`.
fn number_of(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `(+12 -3)`, or why there is no such count; empty if there is nothing to count.
fn parenthesis(count: Count) -> String {
    match count {
        Count::Lines { added, removed: 0 } => format!("(+{added})"),
        Count::Lines { added: 0, removed } => format!("(-{removed})"),
        Count::Lines { added, removed } => format!("(+{added} -{removed})"),
        Count::Nothing => String::new(),
        other => format!("({})", reason(other)),
    }
}

/// Why there are no lines.
fn reason(count: Count) -> String {
    match count {
        Count::Binary => "binary".to_owned(),
        Count::Large(size) => format!("large, {}", agentd_policy::size::readable_size(size)),
        Count::Skipped => "not compared: too much to compare".to_owned(),
        Count::Changed => "changed since it was compared".to_owned(),
        Count::Unreadable => "cannot be read".to_owned(),
        Count::Lines { .. } | Count::Nothing => String::new(),
    }
}

/// An action as a word.
fn word(action: Action) -> &'static str {
    match action {
        Action::Added => "added",
        Action::Deleted => "deleted",
        Action::Modified => "modified",
        Action::Mode => "mode",
        Action::Type => "type",
        Action::Renamed => "renamed",
    }
}

/// A kind of file as words.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symbolic link",
        Kind::Fifo => "FIFO",
        Kind::Socket => "socket",
        Kind::Device => "device",
    }
}

#[cfg(test)]
#[path = "show/show_tests.rs"]
mod tests;
