//! `git apply` in a scratch repository makes the same tree of a patch.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::change::Action;
use crate::fixture::Fixture;

fn patch(fixture: &Fixture, changes: &Changes) -> (Vec<u8>, Vec<LeftOut>) {
    let mut out = Vec::new();
    let left_out = write(changes, &fixture.trees, &mut Budget::default(), &mut out).unwrap();
    (out, left_out)
}

/// Files and links with what git keeps of them.
fn tree(top: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            if name == b".git" {
                continue;
            } else if kind.is_dir() {
                todo.push(path);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
                found.insert(name, (0, target));
            } else {
                let executable = entry.metadata().unwrap().permissions().mode() & 0o100;
                found.insert(name, (executable | 1, std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn git(dir: &Path, arguments: &[&str], input: &[u8]) {
    use std::io::Write as _;
    let mut command = Command::new("git");
    command.args(arguments).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
    command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    let mut child =
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {error}\n{}", String::from_utf8_lossy(input));
}

/// Applies the patch to a repository of the workspace's files, forwards and, without changes of type, back.
fn assert_applies(fixture: &Fixture, changes: &Changes, patch: &[u8]) {
    let (before, after) = (fixture.side("before"), fixture.side("after"));
    let (old, new) = (tree(&before), tree(&after));
    git(&before, &["init", "-q"], b"");
    if changes.0.iter().all(|change| change.path.components().all(|name| name != b".git"))
        && !patch.is_empty()
    {
        git(&before, &["apply", "--whitespace=nowarn", "-"], patch);
        assert_eq!(tree(&before), new);
        // Backwards git itself makes a file of a link that became one.
        if changes.0.iter().all(|change| change.action() != Action::Type) {
            git(&before, &["apply", "--whitespace=nowarn", "-R", "-"], patch);
            assert_eq!(tree(&before), old);
        }
    }
}

#[test]
fn git_makes_the_same_tree() {
    let fixture = Fixture::new();
    let lines = |from: usize, to: usize| (from..to).map(|n| format!("{n}\n")).collect::<String>();
    fixture.before("text", lines(0, 50)).after("text", lines(3, 20) + "new\n" + &lines(22, 60));
    fixture.before("end", "a\nb").after("end", "a\nc\n").before("end2", "a\n").after("end2", "a");
    fixture.before("binary", b"\0\x01\xff").after("binary", [0, 7, 9].repeat(400));
    fixture
        .before("gone/binary", b"\0")
        .before("gone/text", "x\n")
        .after("made/empty", "")
        .before("gone/empty", "");
    fixture.after("latin", b"caf\xe9\r\n").after("no newline", "x").after_mode(
        "run.sh",
        "#!/bin/sh\n",
        0o755,
    );
    fixture
        .before("mode", "x\n")
        .after_mode("mode", "x\n", 0o755)
        .after("-rf", "x\n")
        .after("a\nb\"\\\t\u{e9}", "x\n");
    fixture.after("a b", "x\n").link("before", "to", "a").link("after", "to", "b");
    fixture.link("after", "new link", "a\nb").after("unicode-\u{202e}", "x\n");
    fixture.after("late NUL", [&[b'a'; 9000][..], b"\0\n"].concat());
    let changes = fixture.changes();
    let (patch, left_out) = patch(&fixture, &changes);
    assert_eq!(left_out, []);
    assert_applies(&fixture, &changes, &patch);
}

#[test]
fn types_change_both_ways() {
    let fixture = Fixture::new();
    fixture
        .before("was file", "x\n")
        .link("after", "was file", "mode")
        .link("before", "link", "text")
        .after("link", "x\n");
    fixture.before("dir/x", "1\n").after("dir", "file\n").before("file", "1\n").after("file/x", "2\n");
    let changes = fixture.changes();
    let (patch, left_out) = patch(&fixture, &changes);
    assert_eq!(left_out, []);
    assert_applies(&fixture, &changes, &patch);
}

#[test]
fn a_rename_is_one() {
    let fixture = Fixture::new();
    fixture
        .before("old name", "1\n2\n")
        .after_mode("new", "1\n2\n", 0o755)
        .before("other", "x\n")
        .after("other", "y\n");
    let mut changes = fixture.changes();
    let new = changes.0.iter_mut().find(|change| change.path.as_bytes() == b"new").unwrap();
    new.renamed_from = Some(FilePath::parse(b"old name").unwrap());
    let (patch, left_out) = patch(&fixture, &changes);
    let text = String::from_utf8(patch.clone()).unwrap();
    assert!(
        text.contains("rename from \"old name\"\nrename to new\n") && !text.contains("deleted"),
        "{text}"
    );
    assert_eq!(left_out, []);
    assert_applies(&fixture, &changes, &patch);
}

#[test]
fn what_git_does_not_keep_is_reported() {
    let fixture = Fixture::new();
    fixture
        .after(".git/config", "x")
        .after("a/.GIT/hooks/x", "x")
        .before("secret", "x")
        .after_mode("secret", "x", 0o600);
    let (patch, left_out) = patch(&fixture, &fixture.changes());
    assert_eq!(patch, b"");
    let lines: Vec<String> = left_out.iter().map(ToString::to_string).collect();
    assert!(lines.contains(&".git/config: not in the patch: git has no such path".to_owned()), "{lines:#?}");
    assert!(
        lines.contains(&"secret: not in the patch: git keeps no such permission bits".to_owned()),
        "{lines:#?}"
    );
}

#[test]
fn what_changed_meanwhile_is_left_out() {
    let fixture = Fixture::new();
    fixture.before("a", "1").after("a", "2");
    let changes = fixture.changes();
    fixture.after("a", "3");
    let (patch, left_out) = patch(&fixture, &changes);
    assert_eq!((patch.as_slice(), left_out.len()), (&b""[..], 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_contents(files in proptest::collection::vec((any::<Option<Vec<u8>>>(), "[a\n\r \u{e9}\0]{0,40}", any::<bool>()), 1..6)) {
        let fixture = Fixture::new();
        for (number, (before, after, executable)) in files.iter().enumerate() {
            let name = format!("f{number}");
            if let Some(before) = before {
                fixture.before(&name, before);
            }
            fixture.after_mode(&name, after, if *executable { 0o755 } else { 0o644 });
        }
        let changes = fixture.changes();
        let (patch, left_out) = patch(&fixture, &changes);
        prop_assert_eq!(left_out, []);
        assert_applies(&fixture, &changes, &patch);
    }
}
