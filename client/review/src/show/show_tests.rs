//! What a person and a program see of the same changes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::summary::{Known, rows, totals};
use super::text::Style;
use super::*;
use crate::change::{Content, Entry};
use crate::danger::dangers;
use crate::digest::Digest;
use crate::fixture::Fixture;
use crate::path::FilePath;

const PLAIN: Style = Style { colours: false };

fn text(fixture: &Fixture, path: &str) -> String {
    let change = fixture.change(path);
    let sides = Sides::read(&change, &fixture.trees, &mut Budget::default());
    text::change(&change, &sides, PLAIN)
}

fn known(fixture: &Fixture, changes: &Changes) -> Vec<Known> {
    let counts = counts(changes, &fixture.trees, &mut Budget::default());
    let known = |(change, count)| Known { count, dangers: dangers(change, &fixture.trees) };
    changes.0.iter().zip(counts).map(known).collect()
}

fn summary(fixture: &Fixture, changes: &Changes) -> String {
    let known = known(fixture, changes);
    let counts: Vec<Count> = known.iter().map(|known| known.count).collect();
    summary::text(&rows(changes, &known), &totals(changes, &counts), PLAIN)
}

#[test]
fn a_text_change() {
    let fixture = Fixture::new();
    fixture.before("a b.txt", "1\n2\n3\n4\n5\n6\n").after("a b.txt", "1\n2\n3\n4\nfive\x1b[2J\u{202e}\n6");
    let expected = "modified a b.txt (+2 -2)\n@@ -2,5 +2,5 @@\n 2\n 3\n 4\n-5\n-6\n+five\\x1b[2J\\u{202e}\n+6\n\\ No newline at end of file\n";
    assert_eq!(text(&fixture, "a b.txt"), expected);
}

#[test]
fn other_changes() {
    let fixture = Fixture::new();
    fixture.after("new", "1\n2\n").before("gone", "1\n").before("bin", b"\0").after("bin", b"\0\0");
    fixture
        .before("was", "x\n")
        .link("after", "was", "to\nnowhere")
        .before("mode", "")
        .after_mode("mode", "", 0o755);
    assert_eq!(text(&fixture, "new"), "added new (+2)\n  file, mode 0644\n@@ -0,0 +1,2 @@\n+1\n+2\n");
    assert_eq!(text(&fixture, "gone"), "deleted gone (-1)\n  file, mode 0644\n@@ -1,1 +0,0 @@\n-1\n");
    assert_eq!(text(&fixture, "bin"), "modified bin (binary)\n  size: 1 bytes -> 2 bytes\n");
    assert_eq!(text(&fixture, "mode"), "mode mode\n  mode: 0644 -> 0755\n");
    let link =
        "type was (-1)\n  type: file -> symbolic link\n  target: \"to\\nnowhere\"\n@@ -1,1 +0,0 @@\n-x\n";
    assert_eq!(text(&fixture, "was"), link);
    let change = fixture.change("new");
    let sides = Sides { before: Held::Nothing, after: Held::Large(12 << 20) };
    let large = "added new (large, 12 MiB)\n  file, mode 0644\n  size: none -> 4 bytes\n";
    assert_eq!(text::change(&change, &sides, PLAIN), large);
}

#[test]
fn what_is_shown_is_what_was_compared() {
    let fixture = Fixture::new();
    fixture.before("a", "1").after("a", "2");
    let change = fixture.change("a");
    fixture.after("a", "3");
    let sides = Sides::read(&change, &fixture.trees, &mut Budget::default());
    assert_eq!(Count::of(&change, &sides), Count::Changed);
    std::fs::remove_file(fixture.side("after").join("a")).unwrap();
    fixture.link("after", "a", "/etc/passwd");
    let sides = Sides::read(&change, &fixture.trees, &mut Budget::default());
    assert_eq!(sides.after, Held::Changed);
}

#[test]
fn the_budget_is_kept() {
    let fixture = Fixture::new();
    fixture.before("a", "12345").after("a", "1234567").after("b", "12345678901").after("c", "1234\n");
    let mut budget = Budget { file: 10, bytes: 15, ..Budget::default() };
    let counts = counts(&fixture.changes(), &fixture.trees, &mut budget);
    assert_eq!(counts, [Count::Lines { added: 1, removed: 1 }, Count::Large(11), Count::Skipped]);
}

#[test]
fn a_summary_folds_and_hides_nothing() {
    let fixture = Fixture::new();
    for number in 0..1204 {
        fixture
            .before(&format!("old/sub/{number}"), "0123456789")
            .after(&format!("node_modules/m{number}/x.js"), "1\n");
    }
    fixture.after("node_modules/.bin/run", "x").after("small/a", "1\n").before("small/b", "2\n3\n");
    fixture.before("src/a.rs", "1\n").after("src/a.rs", "2\n3\n").after_mode("tool", "", 0o755);
    let changes = fixture.changes();
    let expected = "\
added     node_modules/ (1,205 files, 2.3 KiB) [set apart: 1 scripts]
deleted   old/ (1,204 files, 11.7 KiB)
added     small/a (+1)
deleted   small/b (-2)
modified  src/a.rs (+2 -1)
added     tool (+0) [set apart: executable]
2,413 files changed (+1208 -1207)
";
    assert_eq!(summary(&fixture, &changes), expected);
    let names = String::from_utf8(stat::names(&changes, false)).unwrap();
    assert_eq!(names.lines().count(), 2413);
    assert!(names.contains("old/sub/1203\n"));
}

#[test]
fn a_moved_directory_is_one_row() {
    let fixture = Fixture::new();
    for number in 0..20 {
        fixture.before(&format!("a/old/{number}"), "x\n").after(&format!("b/new/{number}"), "x\n");
        fixture.before(&format!("a/old/deep/{number}"), "y\n").after(&format!("b/new/deep/{number}"), "y\n");
    }
    fixture.before("a/stays", "").after("a/stays", "").before("b/stays", "").after("b/stays", "");
    let mut changes = fixture.changes();
    for change in &mut changes.0 {
        let from = String::from_utf8_lossy(change.path.as_bytes()).replace("b/new", "a/old");
        if change.before.is_none() && change.after.as_ref().is_some_and(|after| after.kind == Kind::File) {
            change.renamed_from = Some(FilePath::parse(from.as_bytes()).unwrap());
        }
    }
    let expected = "renamed   a/old/ -> b/new/ (40 files, 80 bytes)\n40 files changed (+0 -0)\n";
    assert_eq!(summary(&fixture, &changes), expected);
    let names = stat::names(&changes, true);
    assert_eq!(names.iter().filter(|byte| **byte == 0).count(), 80, "old names and new ones");
}

#[test]
fn a_stat() {
    let fixture = Fixture::new();
    fixture.before("src/a.rs", "1\n").after("src/a.rs", "2\n3\n").before("gone", "1\n2\n").after("b", b"\0");
    fixture.after("escape\x1b", "x\n");
    let changes = fixture.changes();
    let counts = counts(&changes, &fixture.trees, &mut Budget::default());
    let expected = " b              | Bin 0 -> 1 bytes\n \"escape\\033\" | 1 +\n gone         | 2 --\n src/a.rs     | 3 ++-\n";
    let stat = stat::stat(&changes, &counts, &totals(&changes, &counts), PLAIN);
    assert_eq!(
        stat,
        format!(
            "{}4 files changed (+3 -3, 1 binary)\n",
            expected.replace(" b              |", " b            |") + " "
        )
    );
}

#[test]
fn rows_for_programs() {
    let fixture = Fixture::new();
    fixture.before("a", "1\n").after_mode("a", "2\n", 0o755).link("after", "l", "a");
    let changes = fixture.changes();
    let known = known(&fixture, &changes);
    let rows: Vec<serde_json::Value> =
        json::rows("/work", &changes, &known).map(|row| serde_json::to_value(row).unwrap()).collect();
    let digest = |text: &str| format!("{:?}", Digest::of_bytes(text.as_bytes()));
    let expected = serde_json::json!([
        {
            "workspace": "/work", "path": "a", "action": "modified", "content": "text", "added": 1, "removed": 1,
            "before": {"kind": "file", "mode": "0644", "size": 2, "digest": digest("1\n")},
            "after": {"kind": "file", "mode": "0755", "size": 2, "digest": digest("2\n")},
            "changed_underneath": false, "dangers": ["executable"],
        },
        {
            "workspace": "/work", "path": "l", "action": "added", "content": "none", "changed_underneath": false,
            "after": {"kind": "symlink", "mode": "0777", "size": 1, "target": "a"},
        },
    ]);
    assert_eq!(serde_json::Value::from(rows), expected);
}

/// A change of a regular file with these contents.
fn file(path: FilePath, before: Option<&[u8]>, after: Option<&[u8]>) -> (Change, Sides) {
    let entry = |bytes: &[u8]| Entry {
        kind: Kind::File,
        mode: 0o644,
        size: bytes.len() as u64,
        content: Content::Bytes(Digest::of_bytes(bytes)),
    };
    let held = |bytes: Option<&[u8]>| bytes.map_or(Held::Nothing, |bytes| Held::Bytes(bytes.to_vec()));
    let sides = Sides { before: held(before), after: held(after) };
    let (before, after) = (before.map(entry), after.map(entry));
    (Change { path, before, after, renamed_from: None, changed_underneath: true }, sides)
}

proptest! {
    #[test]
    fn nothing_of_the_agents_controls_a_terminal(
        name in proptest::collection::vec(1_u8.., 1..20),
        before in any::<Option<Vec<u8>>>(),
        after in "[\u{0}-\u{9f}\u{200b}-\u{202f}a\n]{0,60}",
        colours in any::<bool>(),
    ) {
        let Ok(path) = FilePath::parse(&name) else { return Ok(()) };
        let (change, sides) = file(path, before.as_deref(), Some(after.as_bytes()));
        let mut shown = text::change(&change, &sides, Style { colours });
        let count = Count::of(&change, &sides);
        let changes = Changes(vec![change]);
        let known = [Known { count, dangers: BTreeSet::new() }];
        let totals = totals(&changes, &[count]);
        shown += &summary::text(&rows(&changes, &known), &totals, Style { colours });
        shown += &stat::stat(&changes, &[count], &totals, Style { colours });
        shown += &String::from_utf8(stat::names(&changes, false)).unwrap();
        for own in ["\x1b[0m", "\x1b[1m", "\x1b[7m", "\x1b[27m", "\x1b[31m", "\x1b[32m", "\x1b[36m"] {
            shown = shown.replace(own, if colours { "" } else { own });
        }
        prop_assert!(!shown.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || is_invisible(c)), "{shown:?}");
    }

    #[test]
    fn folded_or_not_every_file_is_counted(paths in proptest::collection::btree_map("[ab]{1,2}(/[abc]{1,2}){0,3}", 0_u8..4, 0..60)) {
        let mut all = std::collections::BTreeMap::new();
        for (path, state) in &paths {
            let path = FilePath::parse(path.as_bytes()).unwrap();
            let (before, after) = match state {
                0 => (None, Some(&b"x\n"[..])),
                1 => (Some(&b"x\n"[..]), None),
                _ => (Some(&b"x\n"[..]), Some(&b"y\n"[..])),
            };
            let mut at = path.parent();
            while let Some(dir) = at {
                at = dir.parent();
                let entry = |present: bool| present.then_some(Entry { kind: Kind::Directory, mode: 0o755, size: 0, content: Content::None });
                if *state < 2 {
                    all.entry(dir.clone()).or_insert(Change { path: dir, before: entry(*state == 1), after: entry(*state == 0), renamed_from: None, changed_underneath: false });
                }
            }
            all.insert(path.clone(), file(path, before, after).0);
        }
        let changes = Changes(all.into_values().collect());
        let known = vec![Known { count: Count::Nothing, dangers: BTreeSet::new() }; changes.0.len()];
        let rows = rows(&changes, &known);
        let number: u64 = rows.iter().map(|row| row.folded.unwrap_or(1)).sum();
        prop_assert_eq!(number, totals(&changes, &vec![Count::Nothing; changes.0.len()]).files);
        let deleted = changes.0.iter().filter(|change| change.after.is_none());
        for change in deleted {
            let shown = rows.iter().any(|row| row.action == Action::Deleted && (row.path.is_within(&change.path) || change.path.is_within(&row.path)))
                || rows.iter().any(|row| row.path.is_within(&change.path));
            prop_assert!(shown, "{}", change.path);
        }
    }
}
