//! Names and contents that a session chose, as a review of its changes shows, merges and judges them.

use std::collections::BTreeSet;

use agentd_policy::names::AbsPath;
use agentd_review::change::{Change, Changes, Content, Entry, Kind};
use agentd_review::content::{Held, Sides};
use agentd_review::danger;
use agentd_review::digest::Digest;
use agentd_review::hunks::{hunks, smallest, with_chosen};
use agentd_review::lines::LineDiff;
use agentd_review::merge::three_way;
use agentd_review::path::{FilePath, is_invisible};
use agentd_review::show::patch::{Blob, difference};
use agentd_review::show::summary::{Known, rows, totals};
use agentd_review::show::text::Style;
use agentd_review::show::{Count, json, stat, summary, text as shown};

/// Three parts, which `0xfe` separates.
fn parts(bytes: &[u8]) -> [&[u8]; 3] {
    let mut parts = bytes.splitn(3, |byte| *byte == 0xfe);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn harmless(text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || is_invisible(c);
    assert!(!text.chars().any(bad), "{text:?}");
}

/// A path, and what was and is there: nothing that is shown controls a terminal, and all hunks make one of the other.
pub fn text(bytes: &[u8]) {
    let [path, before, after] = parts(bytes);
    let Ok(path) = FilePath::parse(path) else { return };
    let entry = |bytes: &[u8]| {
        let content = Content::Bytes(Digest::of_bytes(bytes));
        Some(Entry { kind: Kind::File, mode: 0o644, size: bytes.len() as u64, content })
    };
    let sides = Sides { before: Held::Bytes(before.to_vec()), after: Held::Bytes(after.to_vec()) };
    let change = Change {
        path,
        before: entry(before),
        after: entry(after),
        renamed_from: None,
        changed_underneath: false,
    };
    harmless(&shown::change(&change, &sides, Style::default()));
    let count = Count::of(&change, &sides);
    let changes = Changes(vec![change]);
    let known = [Known { count, dangers: BTreeSet::new() }];
    let totals = totals(&changes, &[count]);
    harmless(&summary::text(&rows(&changes, &known), &totals, Style::default()));
    harmless(&stat::stat(&changes, &[count], &totals, Style::default()));
    harmless(&String::from_utf8_lossy(&stat::names(&changes, false)));
    assert_eq!(json::rows("/", &changes, &known).count(), 1);
    let diff = LineDiff::new(before, after);
    for all in [hunks(&diff), smallest(&diff)] {
        assert_eq!(with_chosen(&diff, &all), after);
        assert_eq!(with_chosen(&diff, []), before);
    }
}

/// A base and both sides: what one side alone changed is taken, and with conflicts there are markers.
pub fn merge(bytes: &[u8]) {
    let [base, ours, theirs] = parts(bytes);
    for base in [Some(base), None] {
        let Some(merged) = three_way(base, ours, theirs, "amber-fox") else { continue };
        let marker = b"<<<<<<< workspace\n";
        let markers = merged.bytes.windows(marker.len()).filter(|window| window == marker).count();
        assert!(merged.conflicts <= markers || merged.bytes.windows(8).any(|window| window == b"<<<<<<<<"));
    }
    let clean = |a: &[u8], b: &[u8]| three_way(Some(base), a, b, "amber-fox").map(|merged| merged.bytes);
    assert_eq!(clean(ours, base).as_deref(), Some(ours));
    assert_eq!(clean(base, theirs).as_deref(), Some(theirs));
}

/// A path, and what was and is there: the patch of a text, applied, makes one of the other.
pub fn patch(bytes: &[u8]) {
    let [path, before, after] = parts(bytes);
    let Ok(path) = FilePath::parse(path) else { return };
    let blob = |bytes: &[u8]| Blob { mode: 0o100_644, bytes: bytes.to_vec() };
    let patch = difference(&path, Some(&blob(before)), Some(&blob(after)));
    let mut lines = patch.split_inclusive(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    assert!(head.starts_with(b"diff --git ") && head.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    if patch.windows(18).any(|window| window == b"\nGIT binary patch\n") || before == after {
        return;
    }
    let mut lines = lines.skip(3).peekable();
    let old: Vec<&[u8]> = before.split_inclusive(|byte| *byte == b'\n').collect();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(line) = lines.next() {
        let ends = lines.peek().is_some_and(|next| next.starts_with(b"\\ No newline"));
        let text = |line: &[u8]| match ends {
            true => line.strip_suffix(b"\n").unwrap_or(line).to_vec(),
            false => line.to_vec(),
        };
        match line.split_first() {
            Some((b'@', head)) => {
                let head = String::from_utf8_lossy(head);
                let number = head.trim_start_matches("@ -").split(',').next().and_then(|n| n.parse().ok());
                let none = head.split(' ').nth(1).is_some_and(|range| range.ends_with(",0"));
                let start: usize = number.map_or(0, |start: usize| start - usize::from(!none));
                out.extend(old[at..start].concat());
                at = start;
            }
            Some((b' ', line)) => {
                assert_eq!(text(line), old[at]);
                out.extend(text(line));
                at += 1;
            }
            Some((b'-', line)) => {
                assert_eq!(text(line), old[at]);
                at += 1;
            }
            Some((b'+', line)) => out.extend(text(line)),
            _ => assert!(line.starts_with(b"\\ No newline")),
        }
    }
    out.extend(old[at..].concat());
    assert_eq!(out, after);
}

/// A path, and a manifest before and after: what stays the same runs nothing else.
pub fn manifest(bytes: &[u8]) {
    let [path, before, after] = parts(bytes);
    let Ok(path) = FilePath::parse(path) else { return };
    for top in ["/", "/srv/p/.github"].map(AbsPath::parse).into_iter().flatten() {
        for dir in [false, true] {
            danger::by_name(&top, &path, dir);
        }
    }
    if let Some(manifest) = danger::Manifest::of(&path) {
        let readable =
            !manifest.runs_something_else(&[], after) || !manifest.runs_something_else(after, after);
        assert!(readable || manifest.runs_something_else(before, after));
    }
}
