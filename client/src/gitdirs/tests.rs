//! Repositories as files, without git.

use super::*;

/// Places by name, and the lines that are said.
type Said = (Vec<(String, Use)>, Vec<String>);

/// A directory that is removed in the end.
pub struct Scratch(pub std::path::PathBuf);

impl Scratch {
    pub fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().canonicalize().unwrap();
        let dir = dir.join(format!("agentctl-git-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, below: &str) -> AbsPath {
        abs(self.0.join(below).to_str().unwrap().trim_end_matches('/'))
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// What git takes for a repository.
    fn repository(&self, name: &str) {
        self.write(&format!("{name}/HEAD"), "ref: refs/heads/main\n");
        for below in ["objects/pack", "objects/info", "refs/heads", "logs"] {
            std::fs::create_dir_all(self.0.join(name).join(below)).unwrap();
        }
    }

    /// The repository `main/.git` with the linked working tree `wt`.
    fn linked(&self) {
        self.repository("main/.git");
        self.write("main/.git/worktrees/n/HEAD", "ref: refs/heads/side\n");
        self.write("main/.git/worktrees/n/commondir", "../..\n");
        self.write("main/.git/worktrees/n/gitdir", &format!("{}/wt/.git\n", self.0.display()));
        self.write("wt/.git", &format!("gitdir: {}/main/.git/worktrees/n\n", self.0.display()));
    }

    /// What is found for `workspaces`, by names below this directory, and the lines that are said.
    fn find(&self, workspaces: &[(&str, Mode)], inputs: &[&str]) -> Result<Said, Refusal> {
        let finder = Finder {
            home: self.path("home"),
            uid: rustix::process::geteuid().as_raw(),
            bounds: &Bounds::default(),
            workspaces: workspaces.iter().map(|(name, mode)| (self.path(name), *mode)).collect(),
            inputs: inputs.iter().map(|name| self.path(name)).collect(),
            borrowed: Vec::new(),
            found: Found::default(),
        };
        let found = finder.run()?;
        let below = |text: &str| text.replace(&format!("{}/", self.0.display()), "");
        let places =
            found.places().into_iter().map(|place| (below(place.path.as_str()), place.used)).collect();
        Ok((places, found.notes.iter().map(|note| below(note)).collect()))
    }

    fn places(&self, workspaces: &[(&str, Mode)]) -> Vec<(String, Use)> {
        let (places, notes) = self.find(workspaces, &[]).unwrap();
        assert!(notes.iter().all(|note| note.starts_with("git: of ")), "{notes:?}");
        places
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub fn abs(text: &str) -> AbsPath {
    AbsPath::parse(text).unwrap()
}

fn own<const N: usize>(places: [(&str, Use); N]) -> Vec<(String, Use)> {
    places.map(|(path, used)| (path.to_owned(), used)).to_vec()
}

const OVERLAY: Use = Use::Work(Part::Repository, Mode::Overlay);
const DIRECT: Use = Use::Work(Part::Repository, Mode::Direct);
const DATA_DIRECT: Use = Use::Work(Part::Data, Mode::Direct);
const COMMON: Use = Use::Work(Part::Common, Mode::Overlay);

#[test]
fn a_linked_working_tree_has_its_common_directory() {
    let scratch = Scratch::new();
    scratch.linked();
    assert_eq!(scratch.places(&[("wt", Mode::Overlay)]), own([("main/.git", OVERLAY)]));
    let direct = own([
        ("main/.git", COMMON),
        ("main/.git/logs", DATA_DIRECT),
        ("main/.git/objects", DATA_DIRECT),
        ("main/.git/refs", DATA_DIRECT),
        ("main/.git/worktrees/n", DIRECT),
    ]);
    assert_eq!(scratch.places(&[("wt", Mode::Direct)]), direct);
    // With the whole repository as a workspace nothing is needed.
    assert_eq!(scratch.places(&[("wt", Mode::Direct), ("main", Mode::Overlay)]), []);
    // A relative pointer back, as newer versions of git write it.
    scratch.write("main/.git/worktrees/n/gitdir", "../../../../wt/.git\n");
    assert_eq!(
        scratch.places(&[("wt", Mode::Ro)]),
        own([("main/.git", Use::Work(Part::Repository, Mode::Ro))])
    );
}

#[test]
fn what_does_not_lead_back_is_said() {
    let scratch = Scratch::new();
    scratch.linked();
    let said = |inputs: &[&str]| {
        let (places, notes) = scratch.find(&[("wt", Mode::Overlay)], inputs).unwrap();
        assert_eq!(places, []);
        notes
    };
    for (name, text, why) in [
        ("main/.git/worktrees/n/gitdir", "/other/.git\n", "does not name this working tree (gitdir)"),
        (
            "main/.git/worktrees/n/commondir",
            "../../..\n",
            "has a commondir that is not the repository that it lies in",
        ),
        (
            "main/.git/worktrees/n/commondir",
            "/etc\n",
            "has a commondir that is not the repository that it lies in",
        ),
        ("main/.git/commondir", "..\n", "is no repository of yours"),
    ] {
        scratch.linked();
        scratch.write(name, text);
        let [note] = said(&[]).try_into().unwrap();
        assert!(note.contains(why) && note.contains("--read main/.git"), "{note}");
        assert_eq!(said(&["main"]), [""; 0]);
    }
}

#[test]
fn a_submodule_has_its_repository() {
    let scratch = Scratch::new();
    scratch.repository("main/.git/modules/m");
    scratch.write("main/m/.git", "gitdir: ../.git/modules/m\n");
    scratch.write("main/.git/modules/m/config", "[core]\n\tworktree = ../../../m\n");
    assert_eq!(scratch.places(&[("main/m", Mode::Direct)]), own([("main/.git/modules/m", DIRECT)]));
    for config in
        ["", "[core]\n\tworktree = ../../../x\n", "[core]\n\tworktree = ../../../m\n\tworktree = /\n"]
    {
        scratch.write("main/.git/modules/m/config", config);
        let (places, notes) = scratch.find(&[("main/m", Mode::Overlay)], &[]).unwrap();
        assert!(places.is_empty() && notes[0].contains("(core.worktree)"), "{notes:?}");
    }
}

#[test]
fn a_subdirectory_has_what_is_above_it() {
    let scratch = Scratch::new();
    scratch.linked();
    std::fs::create_dir_all(scratch.0.join("main/a/b")).unwrap();
    std::fs::create_dir_all(scratch.0.join("wt/a")).unwrap();
    assert_eq!(
        scratch.places(&[("main/a/b", Mode::Overlay)]),
        own([("main", Use::Top), ("main/.git", OVERLAY)])
    );
    let linked = own([("main/.git", OVERLAY), ("wt", Use::Top), ("wt/.git", Use::Read)]);
    assert_eq!(scratch.places(&[("wt/a", Mode::Overlay)]), linked);
    // Who has the top to read needs no line; git's part is written to all the same.
    let (places, notes) = scratch.find(&[("main/a", Mode::Direct)], &["main"]).unwrap();
    assert_eq!((places, notes), (own([("main", Use::Top), ("main/.git", DIRECT)]), vec![]));
    // The home's own repository is none of a project's.
    scratch.repository("home/.git");
    std::fs::create_dir_all(scratch.0.join("home/p")).unwrap();
    let (places, notes) = scratch.find(&[("home/p", Mode::Overlay)], &[]).unwrap();
    assert!(places.is_empty() && notes[0].contains("holds your home"), "{notes:?}");
}

#[test]
fn alternates_are_followed_as_far_as_git_does() {
    let scratch = Scratch::new();
    scratch.repository("w/.git");
    for (store, next) in [("a", "../b"), ("b", "../a\n../keys")] {
        std::fs::create_dir_all(scratch.0.join(store).join("pack")).unwrap();
        scratch.write(&format!("{store}/info/alternates"), next);
    }
    scratch.write("keys/id", "");
    scratch.write("w/.git/objects/info/alternates", &scratch.path("a").to_string());
    let (places, notes) = scratch.find(&[("w", Mode::Overlay)], &[]).unwrap();
    assert_eq!(places, own([("a", Use::Read), ("b", Use::Read)]));
    assert!(notes.iter().any(|note| note.starts_with("git: keys is named as an alternate")), "{notes:?}");
    assert!(
        notes.iter().any(|note| note.starts_with("git: a is read, an alternate of w/.git/objects")),
        "{notes:?}"
    );
}

#[test]
fn what_the_configuration_names_in_a_workspace_is_guarded_in_direct() {
    let scratch = Scratch::new();
    scratch.linked();
    scratch.write("wt/tool", "");
    let config = format!(
        "[core]\n\thooksPath = hk\n[include]\n\tpath = {0}/wt/inc\n[filter \"x\"]\n\tclean = ./tool %f\n\tsmudge = ./none\n[remote \"o\"]\n\turl = ./tool\n",
        scratch.0.display()
    );
    scratch.write("main/.git/config", &config);
    scratch.write("wt/inc", "[diff \"y\"]\n\tcommand = ./more\n");
    scratch.write("wt/more", "");
    let guarded = |mode| {
        let (places, _) = scratch.find(&[("wt", mode)], &[]).unwrap();
        let guarded = places.into_iter().filter(|(_, used)| *used == Use::Guard);
        guarded.map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(guarded(Mode::Direct), ["wt/hk", "wt/inc", "wt/more", "wt/tool"]);
    assert_eq!(guarded(Mode::Overlay), [""; 0]);
    // Also where the repository is not given.
    scratch.write("main/.git/worktrees/n/gitdir", "/other/.git\n");
    assert_eq!(guarded(Mode::Direct), ["wt/hk", "wt/inc", "wt/more", "wt/tool"]);
    scratch.write("main/.git/config", &"a=b\n".repeat(20_000));
    let refusal = scratch.find(&[("wt", Mode::Direct)], &[]).unwrap_err();
    assert_eq!(refusal.rule.name(), "workspace.git");
    assert!(scratch.find(&[("wt", Mode::Overlay)], &[]).is_ok());
}

#[test]
fn objects_that_are_borrowed_in_direct_are_no_copy() {
    let scratch = Scratch::new();
    scratch.linked();
    scratch.repository("w/.git");
    scratch.write("w/.git/objects/info/alternates", &scratch.path("main/.git/objects").to_string());
    let find = |w, wt| scratch.find(&[("w", w), ("wt", wt)], &[]).unwrap();
    let (places, notes) = find(Mode::Direct, Mode::Overlay);
    assert_eq!(places, own([("main/.git/objects", Use::Read)]));
    assert!(notes.iter().any(|note| note.contains("use one mode for both")), "{notes:?}");
    let (places, notes) = find(Mode::Direct, Mode::Direct);
    assert!(
        places.contains(&("main/.git/objects".into(), DATA_DIRECT)) && notes.len() == 1,
        "{places:?} {notes:?}"
    );
    let (places, notes) = find(Mode::Overlay, Mode::Overlay);
    assert_eq!((places, notes.len()), (own([("main/.git", OVERLAY)]), 1));
}
