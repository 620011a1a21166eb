//! Dangers of changes in real trees.

use super::*;
use crate::fixture::Fixture;

fn of(fixture: &Fixture, path: &str) -> Vec<Danger> {
    dangers(&fixture.change(path), &fixture.trees).into_iter().collect()
}

#[test]
fn words_are_unique_and_parse() {
    let words: BTreeSet<&str> = Danger::ALL.iter().map(|danger| danger.word()).collect();
    assert_eq!(words.len(), Danger::ALL.len());
    for danger in Danger::ALL {
        assert_eq!(Danger::parse(danger.word()), Some(danger));
    }
    assert!(Danger::ALL.is_sorted());
    assert_eq!(Danger::parse("all"), None);
}

#[test]
fn an_ordinary_change_is_not_set_apart() {
    let fixture = Fixture::new();
    fixture.before("src/a.rs", "1").after("src/a.rs", "2").after("src/b.rs", "").after("docs/guide.md", "x");
    for path in ["src/a.rs", "src/b.rs", "docs/guide.md", "docs"] {
        assert_eq!(of(&fixture, path), [], "{path}");
    }
}

#[test]
fn deleted_files_are_set_apart_where_they_refused_something() {
    let fixture = Fixture::new();
    fixture
        .before(".gitattributes", "x")
        .before("Makefile", "x")
        .before(".husky/pre-push", "x")
        .before("a/.npmrc", "x");
    assert_eq!(of(&fixture, ".gitattributes"), [Danger::Git]);
    assert_eq!(of(&fixture, ".husky/pre-push"), [Danger::Hooks]);
    assert_eq!(of(&fixture, "a/.npmrc"), [Danger::Scripts]);
    assert_eq!(of(&fixture, "Makefile"), []);
}

#[test]
fn executables() {
    let fixture = Fixture::new();
    fixture.after_mode("new", "#!/bin/sh", 0o755).before("gained", "x").after_mode("gained", "x", 0o744);
    fixture.before("plain", "x").after("plain", "#!/bin/sh");
    for (path, before, after) in
        [("script", "#!/bin/sh\n", "#!/bin/sh\nls"), ("binary", "#!/bin/sh", "\x7fELF\x02")]
    {
        fixture.before(path, before).after_mode(path, after, 0o755);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(fixture.side("before").join(path), open).unwrap();
    }
    assert_eq!(of(&fixture, "new"), [Danger::Executable]);
    assert_eq!(of(&fixture, "gained"), [Danger::Executable]);
    assert_eq!(of(&fixture, "binary"), [Danger::Executable]);
    assert_eq!(of(&fixture, "plain"), []);
    assert_eq!(of(&fixture, "script"), []);
    fixture.after_mode("privileged", "", 0o4644);
    assert_eq!(of(&fixture, "privileged"), [Danger::SetId]);
}

#[test]
fn links_that_lead_out() {
    let fixture = Fixture::new();
    fixture.after("dir/file", "").before("was/file", "");
    for (path, target) in [
        ("absolute", "/etc/passwd"),
        ("dir/up", "../../x"),
        ("git", ".git/config"),
        ("upper", "dir/../.GIT"),
        ("was", "dir"),
        // Each alone stays inside, where it is taken letter by letter.
        ("dir/deep", ".."),
        ("through", "dir/deep/../x"),
        ("loop", "loop"),
        ("dir/inside", "../dir/file"),
        ("missing", "not/../there"),
    ] {
        fixture.link("after", path, target);
    }
    for out in ["absolute", "dir/up", "git", "upper", "was", "through", "loop"] {
        assert_eq!(of(&fixture, out), [Danger::Symlink], "{out}");
    }
    for inside in ["dir/deep", "dir/inside", "missing"] {
        assert_eq!(of(&fixture, inside), [], "{inside}");
    }
    fixture.link("after", "dir/package.json", "file");
    assert_eq!(of(&fixture, "dir/package.json"), [Danger::Scripts]);
}

#[test]
fn names_like_others() {
    let fixture = Fixture::new();
    fixture.before("config.py", "").after("config.py", "").after("\u{441}onfig.py", "");
    fixture.before("gone", "").after("Gone", "").after("Readme", "").after("README", "");
    fixture.after("-rf", "").after("dir\u{200b}/file", "").after("l1", "").after("ll", "");
    fixture.before("old\u{200b}/a", "").after("old\u{200b}/a", "x").after("old\u{200b}/b", "");
    for path in ["\u{441}onfig.py", "Readme", "README", "-rf", "dir\u{200b}", "dir\u{200b}/file"] {
        assert_eq!(of(&fixture, path), [Danger::Name], "{path}");
    }
    // Only renamed; letters of ASCII; names that the workspace has.
    for path in ["Gone", "l1", "config.py", "old\u{200b}/a", "old\u{200b}/b"] {
        assert_eq!(of(&fixture, path), [], "{path}");
    }
}

#[test]
fn names_of_a_directory_are_read_once() {
    let fixture = Fixture::new();
    for number in 0..200 {
        fixture.after(&format!("a/{number}"), "").after(&format!("a/sub{number}/x"), "");
    }
    let changes = fixture.changes();
    let mut judge = Judge::default();
    assert!(changes.0.iter().all(|change| dangers_among(change, &fixture.trees, &mut judge).is_empty()));
}

#[test]
fn what_is_not_looked_at_is_set_apart() {
    let fixture = Fixture::new();
    fixture.after("a/file", "").link("after", "a/link", "file").after("package.json", "{}");
    let mut judge = Judge { look_ups: 0, bytes: 1, ..Judge::default() };
    let mut of = |path| dangers_among(&fixture.change(path), &fixture.trees, &mut judge);
    assert_eq!(of("a/link"), BTreeSet::from([Danger::Symlink]));
    assert_eq!(of("package.json"), BTreeSet::from([Danger::Scripts]));
    let target = "x/".repeat(2000);
    fixture.link("after", "long", &target);
    assert_eq!(dangers(&fixture.change("long"), &fixture.trees), BTreeSet::from([Danger::Symlink]));
}

#[test]
fn manifests() {
    let fixture = Fixture::new();
    fixture.before("package.json", "{\"version\": \"1\"}").after("package.json", "{\"version\": \"2\"}");
    fixture.before("a/package.json", "{}").after("a/package.json", "{\"scripts\": {\"test\": \"x\"}}");
    fixture.after("b/package.json", vec![b' '; 2 << 20]);
    assert_eq!(of(&fixture, "package.json"), []);
    assert_eq!(of(&fixture, "a/package.json"), [Danger::Scripts]);
    assert_eq!(of(&fixture, "b/package.json"), [Danger::Scripts], "too large to compare");
    let scripts = "{\"scripts\": {\"install\": \"x\"}}";
    fixture.before("vendor/old/package.json", scripts).after("c/package.json", scripts);
    let mut moved = fixture.change("c/package.json");
    moved.renamed_from = Some(FilePath::parse(b"vendor/old/package.json").unwrap());
    assert_eq!(dangers(&moved, &fixture.trees), BTreeSet::from([Danger::Scripts]), "it runs elsewhere now");
}

#[test]
fn what_is_no_file() {
    let fixture = Fixture::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fixture.side("after").join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(of(&fixture, "fifo"), [Danger::Device]);
    let mut change = fixture.change("fifo");
    let after = change.after.as_mut().unwrap();
    (after.kind, after.content) = (Kind::File, Content::Unreadable);
    assert_eq!(dangers(&change, &fixture.trees), BTreeSet::from([Danger::Unreadable]));
}
