//! What changed, on a line for each file or for a directory of them.

use std::collections::{BTreeMap, BTreeSet};

use agentd_policy::size::readable_size;

use super::text::Style;
use super::{Count, grouped, kind, number_of, parenthesis, word};
use crate::change::{Action, Change, Changes, Kind};
use crate::danger::Danger;
use crate::path::{FilePath, escaped};

/// A directory with more files than this, all added, deleted or moved together, is one row.
const FOLDED_FROM: u64 = 8;

/// What is known of one change besides itself.
#[derive(Clone, Debug)]
pub struct Known {
    /// How much of its content differs.
    pub count: Count,
    /// Why it is set apart.
    pub dangers: BTreeSet<Danger>,
}

/// A row of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The file, or the directory of all that the row is about.
    pub path: FilePath,
    /// Where it was.
    pub from: Option<FilePath>,
    /// What became of it, or of each file in it.
    pub action: Action,
    /// How many files it stands for; `None` for one that is not folded.
    pub folded: Option<u64>,
    /// Bytes of these files, where they still are.
    pub bytes: u64,
    /// The content of the only file.
    pub count: Count,
    /// How many of the files are set apart, and why.
    pub dangers: BTreeMap<Danger, u64>,
    /// What differs besides content.
    note: String,
}

/// All changes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files, and directories that have no changed file in them. A moved file is one.
    pub files: u64,
    /// The same by what became of them.
    pub by_action: BTreeMap<Action, u64>,
    /// New lines of texts.
    pub added: u64,
    /// Lines of texts that are gone.
    pub removed: u64,
    /// Files that are no text.
    pub binary: u64,
    /// Files that were not compared, for their size or another reason.
    pub not_compared: u64,
    /// Bytes of added, modified and moved files, as they are now.
    pub bytes: u64,
    /// Bytes of deleted files.
    pub bytes_deleted: u64,
}

/// Which changes are listed: all but directories with other changes in them, and deletions of what was moved.
pub fn listed(changes: &Changes) -> Vec<bool> {
    let moved: BTreeSet<&FilePath> =
        changes.0.iter().filter_map(|change| change.renamed_from.as_ref()).collect();
    let next = changes.0.iter().skip(1).map(Some).chain([None]);
    let is_listed = |(change, next): (&Change, Option<&Change>)| {
        let has_more = next.is_some_and(|next| next.path.is_within(&change.path));
        let other = matches!(change.action(), Action::Mode | Action::Type);
        let is_parent = is_directory(change) && has_more && !other;
        let is_source = change.after.is_none() && moved.contains(&change.path);
        !is_parent && !is_source
    };
    changes.0.iter().zip(next).map(is_listed).collect()
}

fn is_directory(change: &Change) -> bool {
    change.after.as_ref().or(change.before.as_ref()).is_some_and(|entry| entry.kind == Kind::Directory)
}

/// Bytes of the file, as it is now or was before it was deleted.
fn size(change: &Change) -> u64 {
    let entry = change.after.as_ref().or(change.before.as_ref());
    entry.filter(|entry| entry.kind == Kind::File).map_or(0, |entry| entry.size)
}

/// Sums the changes up; `counts` is one for each change.
pub fn totals(changes: &Changes, counts: &[Count]) -> Totals {
    let mut totals = Totals::default();
    for ((change, count), _) in
        changes.0.iter().zip(counts).zip(listed(changes)).filter(|(_, listed)| *listed)
    {
        totals.files += 1;
        *totals.by_action.entry(change.action()).or_default() += 1;
        match count {
            Count::Lines { added, removed } => {
                (totals.added, totals.removed) = (totals.added + added, totals.removed + removed)
            }
            Count::Binary => totals.binary += 1,
            Count::Nothing => {}
            _ => totals.not_compared += 1,
        }
        let bytes = if change.after.is_some() { &mut totals.bytes } else { &mut totals.bytes_deleted };
        *bytes = bytes.saturating_add(size(change));
    }
    totals
}

impl Totals {
    /// These and those of another workspace.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (action, files) in other.by_action {
            *self.by_action.entry(action).or_default() += files;
        }
        self.files += other.files;
        self.added += other.added;
        self.removed += other.removed;
        self.binary += other.binary;
        self.not_compared += other.not_compared;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.bytes_deleted = self.bytes_deleted.saturating_add(other.bytes_deleted);
        self
    }
}

/// `3 files changed (+120 -8)`, with how many are binary or were not compared.
impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} changed (+{} -{}", number_of(self.files, "file"), self.added, self.removed)?;
        if self.binary > 0 {
            write!(f, ", {} binary", grouped(self.binary))?;
        }
        if self.not_compared > 0 {
            write!(f, ", {} not compared", grouped(self.not_compared))?;
        }
        write!(f, ")")
    }
}

/// The rows, by path. Nothing is left out: a directory of which all files were added, deleted or moved together is one
/// row with their number.
pub fn rows(changes: &Changes, known: &[Known]) -> Vec<Row> {
    let listed = listed(changes);
    let folds = folds(changes, &listed);
    let mut rows = Vec::new();
    let mut at = 0;
    while let Some((change, is_listed)) = changes.0.get(at).zip(listed.get(at)) {
        match folds.get(&at) {
            Some(fold) => {
                let within = known.iter().zip(&listed).take(fold.end).skip(at).filter(|(_, listed)| **listed);
                rows.push(folded(change, fold, within.flat_map(|(known, _)| &known.dangers)));
                at = fold.end;
            }
            None => {
                rows.extend(known.get(at).filter(|_| *is_listed).map(|known| single(change, known)));
                at += 1;
            }
        }
    }
    rows
}

fn count_dangers<'d>(dangers: impl Iterator<Item = &'d Danger>) -> BTreeMap<Danger, u64> {
    dangers.fold(BTreeMap::new(), |mut all, danger| {
        *all.entry(*danger).or_default() += 1;
        all
    })
}

fn folded<'d>(change: &Change, fold: &Fold, dangers: impl Iterator<Item = &'d Danger>) -> Row {
    Row {
        path: change.path.clone(),
        from: fold.from.clone(),
        action: fold.action.unwrap_or_else(|| change.action()),
        folded: Some(fold.files),
        bytes: fold.bytes,
        count: Count::Nothing,
        dangers: count_dangers(dangers),
        note: String::new(),
    }
}

fn single(change: &Change, known: &Known) -> Row {
    let note = match (change.action(), &change.before, &change.after) {
        (Action::Mode, Some(before), Some(after)) => format!("({:04o} -> {:04o})", before.mode, after.mode),
        (Action::Type, Some(before), Some(after)) => {
            format!("({} -> {})", kind(before.kind), kind(after.kind))
        }
        (_, before, after) => match after.as_ref().or(before.as_ref()).map(|entry| entry.kind) {
            Some(Kind::File) | None => String::new(),
            Some(other) => format!("({})", kind(other)),
        },
    };
    Row {
        path: change.path.clone(),
        from: change.renamed_from.clone(),
        action: change.action(),
        folded: None,
        bytes: size(change),
        count: known.count,
        dangers: count_dangers(known.dangers.iter()),
        note,
    }
}

/// A directory of which all listed changes are of one action.
#[derive(Debug)]
struct Fold {
    /// Behind its last change.
    end: usize,
    files: u64,
    bytes: u64,
    /// `None` as long as nothing is listed in it.
    action: Option<Action>,
    /// Where all of it was.
    from: Option<FilePath>,
    is_uniform: bool,
}

impl Fold {
    /// Takes in what became of `name` in the directory, a file or all of another directory, and where it was.
    fn take(&mut self, action: Action, from: Option<&FilePath>, name: &std::ffi::OsStr, first: bool) {
        let from = from.filter(|from| from.name() == name).and_then(FilePath::parent);
        if first {
            (self.action, self.from) = (Some(action), from);
        } else {
            self.is_uniform &= self.action == Some(action) && self.from == from;
        }
        let is_move = action != Action::Renamed || self.from.is_some();
        self.is_uniform &= is_move && matches!(action, Action::Added | Action::Deleted | Action::Renamed);
    }
}

/// The directories that are one row each, by the number of their change; none is within another.
fn folds(changes: &Changes, listed: &[bool]) -> BTreeMap<usize, Fold> {
    let mut done = BTreeMap::new();
    let mut open: Vec<(usize, &Change, Fold)> = Vec::new();
    let mut close = |open: &mut Vec<(usize, &Change, Fold)>, end: usize| {
        let Some((number, change, mut fold)) = open.pop() else { return };
        fold.end = end;
        if let Some((.., parent)) = open.last_mut() {
            match fold.action {
                Some(action) if fold.is_uniform => {
                    let first = parent.action.is_none();
                    parent.take(action, fold.from.as_ref(), change.path.name(), first);
                }
                Some(_) => (parent.is_uniform, parent.action) = (false, fold.action),
                None => {}
            }
            parent.files += fold.files;
            parent.bytes = parent.bytes.saturating_add(fold.bytes);
        }
        if fold.is_uniform && fold.files > FOLDED_FROM {
            // What was folded within is a part of it.
            let within: Vec<usize> = done.range(number..end).map(|(number, _)| *number).collect();
            within.iter().for_each(|number| drop(done.remove(number)));
            done.insert(number, fold);
        }
    };
    for (number, (change, listed)) in changes.0.iter().zip(listed).enumerate() {
        while open.last().is_some_and(|(_, dir, _)| !change.path.is_within(&dir.path)) {
            close(&mut open, number);
        }
        if *listed && let Some((.., dir)) = open.last_mut() {
            let first = dir.action.is_none();
            dir.take(change.action(), change.renamed_from.as_ref(), change.path.name(), first);
            dir.files += 1;
            dir.bytes = dir.bytes.saturating_add(size(change));
        }
        if is_directory(change) {
            let whole = matches!(change.action(), Action::Added | Action::Deleted);
            let fold = Fold { end: number, files: 0, bytes: 0, action: None, from: None, is_uniform: whole };
            open.push((number, change, fold));
        }
    }
    while !open.is_empty() {
        close(&mut open, changes.0.len());
    }
    done
}

/// The summary for a terminal: a line for each row, then the totals.
pub fn text(rows: &[Row], totals: &Totals, style: Style) -> String {
    let mut out = String::new();
    for row in rows {
        let colour = match row.action {
            Action::Added => "\x1b[32m",
            Action::Deleted => "\x1b[31m",
            _ => "",
        };
        let (start, end) = if style.colours && !colour.is_empty() { (colour, "\x1b[0m") } else { ("", "") };
        let line = format!("{:8}  {}", word(row.action), describe(row));
        out.push_str(&format!("{start}{}{end}\n", line.trim_end()));
    }
    out.push_str(&format!("{totals}\n"));
    out
}

fn describe(row: &Row) -> String {
    let from = row.from.as_ref().map_or_else(String::new, |from| format!("{from} -> "));
    let mut parts = match row.folded {
        Some(files) => {
            let dir = |path: &FilePath| escaped(&[path.as_bytes(), b"/"].concat());
            let from = row.from.as_ref().map_or_else(String::new, |from| format!("{} -> ", dir(from)));
            let size = readable_size(row.bytes);
            vec![format!("{from}{} ({}, {size})", dir(&row.path), number_of(files, "file"))]
        }
        None => vec![format!("{from}{}", row.path), parenthesis(row.count), row.note.clone()],
    };
    if !row.dangers.is_empty() {
        let each = |(danger, number): (&Danger, &u64)| match row.folded {
            Some(_) => format!("{} {danger}", grouped(*number)),
            None => danger.to_string(),
        };
        parts.push(format!("[set apart: {}]", row.dangers.iter().map(each).collect::<Vec<_>>().join(", ")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}
