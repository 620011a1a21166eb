use super::*;
use crate::profile::filesystem::{Scratch, Workspace};
use crate::quantity::{Size, Span};
use proptest::prelude::*;

fn name(text: &str) -> ProfileName {
    ProfileName::parse(text).unwrap()
}

fn resolve(files: &[(&str, &str)], site: &[(&str, &str)], wanted: &str) -> Result<Profile, Refusal> {
    let text = |(label, toml): &(&str, &str)| Text { label: (*label).into(), toml: (*toml).into() };
    let files: Vec<_> = files.iter().map(text).collect();
    let site = |name: &ProfileName| Ok(site.iter().find(|(own, _)| *own == name.as_str()).map(text));
    Library { files: &files, site: &site, bounds: &Bounds::default() }.resolve(&name(wanted))
}

#[test]
fn the_built_in_profiles_stand() {
    for built in built_in() {
        let profile = resolve(&[], &[], built).unwrap();
        assert_eq!(profile.name, Some(name(built)));
        assert!(profile.unenforced().is_empty());
    }
    let default = resolve(&[], &[], "default").unwrap();
    let mask = &default.filesystem.workspace[0].mask;
    assert!(
        [".env", "**/.env", "**/.env.*", "**/id_ed25519"].iter().all(|name| mask.iter().any(|m| m == name))
    );
    assert_eq!(default.filesystem.scratch[0].size, Some(Size(512 << 20)));
    assert_eq!(default.limits.timeout, Some(Span(8 * 3_600_000)));
}

#[test]
fn a_file_out_of_form_matters_only_if_it_is_meant() {
    let broken = ("other.toml", "schema = 2");
    assert!(resolve(&[("x.toml", "schema = 1"), broken], &[], "x").is_ok());
    let rule =
        |files: &[(&str, &str)]| resolve(files, &[("other", "schema = 1")], "x").unwrap_err().rule.name();
    assert_eq!(rule(&[broken]), "profile.form");
    // Not the site's of that name instead.
    assert_eq!(rule(&[("x.toml", "schema = 1\nextends = ['other']"), broken]), "profile.form");
}

#[test]
fn built_in_limits_are_lowered_and_written_ones_stay() {
    let bounds = Bounds { memory: Size(1 << 30), ..Bounds::default() };
    let files = [Text { label: "x.toml".into(), toml: "schema = 1\nextends = ['default']".into() }];
    let library = Library { files: &files, site: &|_| Ok(None), bounds: &bounds };
    assert_eq!(library.resolve(&name("x")).unwrap().limits.memory, Some(Size(1 << 30)));
    let files = [Text { label: "x.toml".into(), toml: "schema = 1\n[limits]\nmemory = '2G'".into() }];
    let library = Library { files: &files, site: &|_| Ok(None), bounds: &bounds };
    assert_eq!(library.resolve(&name("x")).unwrap().limits.memory, Some(Size(2 << 30)));
}

#[test]
fn a_child_adds_and_takes_nothing_back() {
    let child = r#"schema = 1
        extends = ["default"]
        [filesystem]
        read = ["~/notes"]
        [[filesystem.workspace]]
        path = "."
        mode = "direct"
        mask = ["key"]
        protect = []
        [limits]
        pids = 7"#;
    let profile = resolve(&[("a/b/mine.toml", child)], &[], "default").unwrap();
    let workspace = &profile.filesystem.workspace[0];
    assert_eq!(workspace.mask.first().map(String::as_str), Some(".env"));
    assert_eq!(workspace.mask.last().map(String::as_str), Some("key"));
    assert_eq!(workspace.protect, [".git/hooks", ".git/config"]);
    assert_eq!(workspace.mode, Some(crate::profile::filesystem::WorkspaceMode::Direct));
    assert_eq!((profile.limits.pids, profile.limits.memory), (Some(7), Some(Size(4 << 30))));
    assert_eq!(profile.environment.allow.len(), 10);
}

#[test]
fn names_are_looked_up_from_the_caller_down() {
    let site = [("default", "schema = 1\nextends = ['default']\n[network]\ndeny = ['site']")];
    let own = [
        ("default.toml", "schema = 1\nextends = ['default', 'mine']\n[network]\ndeny = ['own']"),
        ("mine.toml", "schema = 1\n[network]\ndeny = ['mine']"),
    ];
    let profile = resolve(&own, &site, "default").unwrap();
    assert_eq!(profile.network.deny, ["site", "mine", "own"]);
    assert!(!profile.filesystem.workspace.is_empty());
    // The site's profile cannot be made to use a caller's.
    let site = [("strict", "schema = 1\nextends = ['mine']")];
    let own = [("x.toml", "schema = 1\nextends = ['strict']"), ("mine.toml", "schema = 1")];
    assert_eq!(resolve(&own, &site, "x").unwrap_err().rule.name(), "profile.unknown");
}

#[test]
fn circles_depth_and_unknown_names_are_refused() {
    let circle = [("a.toml", "schema = 1\nextends = ['b']"), ("b.toml", "schema = 1\nextends = ['a']")];
    assert_eq!(resolve(&circle, &[], "a").unwrap_err().rule.name(), "profile.circle");
    let own = [("a.toml", "schema = 1\nextends = ['a']")];
    assert_eq!(resolve(&own, &[], "a").unwrap_err().rule.name(), "profile.circle");
    assert_eq!(resolve(&[], &[], "nobody").unwrap_err().rule.name(), "profile.unknown");
    let long: Vec<_> =
        (0..9).map(|i| (format!("p{i}.toml"), format!("schema = 1\nextends = ['p{}']", i + 1))).collect();
    let long: Vec<_> = long.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(resolve(&long, &[], "p0").unwrap_err().rule.name(), "profile.depth");
}

#[test]
fn a_tree_that_doubles_ends() {
    let wide: Vec<_> = (0..7)
        .map(|i| (format!("p{i}.toml"), format!("schema = 1\nextends = ['p{0}', 'p{0}', 'p{0}']", i + 1)))
        .chain([("p7.toml".to_owned(), "schema = 1".to_owned())])
        .collect();
    let wide: Vec<_> = wide.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(resolve(&wide, &[], "p0").unwrap_err().rule.name(), "profile.depth");
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let words = || proptest::collection::vec("[a-d.*~/]{1,3}", 0..4);
    let workspaces = proptest::collection::vec((words(), words()), 0..3);
    (words(), words(), workspaces, proptest::option::of(0u64..9)).prop_map(|(read, deny, spaces, pids)| {
        let mut profile = Profile::parse("x", "schema = 1").unwrap();
        profile.filesystem.read = read;
        profile.network.deny = deny;
        profile.filesystem.workspace = spaces
            .into_iter()
            .enumerate()
            .map(|(i, (mask, protect))| Workspace {
                path: format!("{i}"),
                mode: None,
                mask,
                protect,
                sockets: vec![],
            })
            .collect();
        profile.filesystem.scratch = vec![Scratch { path: "/tmp".into(), size: pids.map(Size), exec: None }];
        profile.limits.pids = pids;
        profile
    })
}

proptest! {
    #[test]
    fn every_denial_of_a_parent_is_in_its_child(parent in any_profile(), child in any_profile()) {
        let merged = parent.clone().overlaid(child.clone());
        for from in [&parent, &child] {
            prop_assert!(from.network.deny.iter().all(|d| merged.network.deny.contains(d)));
            for workspace in &from.filesystem.workspace {
                let now = merged.filesystem.workspace.iter().find(|w| w.path == workspace.path).unwrap();
                prop_assert!(workspace.mask.iter().all(|m| now.mask.contains(m)));
                prop_assert!(workspace.protect.iter().all(|p| now.protect.contains(p)));
            }
        }
        prop_assert_eq!(merged.limits.pids, child.limits.pids.or(parent.limits.pids));
        prop_assert_eq!(merged.clone().overlaid(child), merged);
    }

    #[test]
    fn hostile_texts_never_panic(text in "\\PC{0,64}", name in "[a-z]{0,6}") {
        Profile::parse("x", &text).ok();
        resolve(&[(&name, &format!("schema = 1\n{text}"))], &[], "default").ok();
    }
}
