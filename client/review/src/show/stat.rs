//! `--stat` and `--name-only`.

use super::summary::{Totals, listed};
use super::text::Style;
use super::{Count, harmless, reason};
use crate::change::{Change, Changes};
use crate::path::FilePath;

/// The widest bar of signs.
const BAR: u64 = 40;

/// A line for each changed file, with its lines as a bar, then the totals: `src/a.rs | 12 +++---`. Nothing is folded;
/// `counts` is one for each change.
pub fn stat(changes: &Changes, counts: &[Count], totals: &Totals, style: Style) -> String {
    let listed = listed(changes);
    let all = changes.0.iter().zip(counts).zip(&listed).filter(|(_, listed)| **listed).map(|(row, _)| row);
    let rows: Vec<(String, &Change, Count)> =
        all.map(|(change, count)| (name(change), change, *count)).collect();
    let widest = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or_default().min(100);
    let most =
        rows.iter().map(|(.., count)| lines(*count).0 + lines(*count).1).max().unwrap_or_default().max(1);
    let mut out = String::new();
    for (name, change, count) in rows {
        let what = match count {
            Count::Lines { added, removed } => bar(added, removed, most, style),
            Count::Binary => format!("Bin {} -> {} bytes", size(&change.before), size(&change.after)),
            Count::Nothing => super::word(change.action()).to_owned(),
            other => reason(other),
        };
        out.push_str(&format!(" {name:widest$} | {what}\n"));
    }
    out.push_str(&format!(" {totals}\n"));
    out
}

/// The paths of all changed files, a moved file's old one as well. With `nul` the bytes themselves, each path ended by
/// a NUL; else a line for each, escaped as in [`FilePath`]'s `Display`.
pub fn names(changes: &Changes, nul: bool) -> Vec<u8> {
    let has_more =
        |at: usize, path: &FilePath| changes.0.get(at + 1).is_some_and(|next| next.path.is_within(path));
    let mut out = Vec::new();
    for (at, (change, listed)) in changes.0.iter().zip(listed(changes)).enumerate() {
        // A deletion is a name too, though the summary has it with where the file is now.
        if !listed && (change.after.is_some() || has_more(at, &change.path)) {
            continue;
        }
        match nul {
            true => out.extend(change.path.as_bytes().iter().chain(&[0])),
            false => out.extend(format!("{}\n", change.path).bytes()),
        }
    }
    out
}

fn name(change: &Change) -> String {
    let mut name = String::new();
    let from = change.renamed_from.as_ref().map_or_else(String::new, |from| format!("{from} -> "));
    harmless(format!("{from}{}", change.path).as_bytes(), &mut name, [""; 2]);
    name
}

fn size(entry: &Option<crate::change::Entry>) -> u64 {
    entry.as_ref().map_or(0, |entry| entry.size)
}

fn lines(count: Count) -> (u64, u64) {
    match count {
        Count::Lines { added, removed } => (added, removed),
        _ => (0, 0),
    }
}

/// `12 ++--`, in proportion to the largest change if that is wider than the bar.
fn bar(added: u64, removed: u64, most: u64, style: Style) -> String {
    let scaled = |number: u64| match most > BAR {
        true => number.saturating_mul(BAR).div_ceil(most),
        false => number,
    };
    let signs = |sign: &str, number: u64| sign.repeat(usize::try_from(scaled(number)).unwrap_or_default());
    let (plus, minus) = (signs("+", added), signs("-", removed));
    let bar = match style.colours {
        true => format!("\x1b[32m{plus}\x1b[31m{minus}\x1b[0m"),
        false => format!("{plus}{minus}"),
    };
    format!("{} {bar}", added + removed).trim_end().to_owned()
}
