//! Where profiles are found by name, and how a child is laid over its parents.

use std::sync::LazyLock;

use crate::Refusal;
use crate::config::Bounds;
use crate::names::ProfileName;
use crate::profile::Profile;
use crate::profile::filesystem::Workspace;
use crate::profile::network::NetworkDefault;
use crate::quantity::{Size, Span};

/// The longest chain of `extends`.
pub const MAX_DEPTH: usize = 8;
/// The most profiles that one resolution reads, so that wide trees end as well.
pub const MAX_READ: usize = 64;

/// The profiles that come with the service.
static BUILT_IN: LazyLock<Vec<(&str, Result<Profile, Refusal>)>> = LazyLock::new(|| {
    [("base", include_str!("../profiles/base.toml")), ("default", include_str!("../profiles/default.toml"))]
        .map(|(name, text)| (name, Profile::parse(name, text)))
        .into()
});

/// The names of the profiles that come with the service.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of a profile, and what to call it in messages.
#[derive(Clone, Debug)]
pub struct Text {
    /// A label: the path of the file.
    pub label: String,
    /// The profile.
    pub toml: String,
}

/// Who wrote a profile. Each may name profiles of its own kind and of those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    BuiltIn,
    Site,
    Caller,
}

/// What profiles are resolved from.
pub struct Library<'a> {
    /// What the caller sent: its first is meant, the others may be named.
    pub files: &'a [Text],
    /// The site's profile of a name, if there is one.
    pub site: &'a dyn Fn(&ProfileName) -> Result<Option<Text>, Refusal>,
    /// The site's bounds; built-in limits are lowered to them.
    pub bounds: &'a Bounds,
}

/// A profile on the way from the one that was asked for to its furthest parent.
struct Step {
    origin: Origin,
    name: String,
}

impl Library<'_> {
    /// The profile that is meant, merged with its parents: the caller's first file, or else the site's or
    /// the built-in one of that name.
    ///
    /// # Errors
    /// A text that is no profile, a name that nobody knows, a circle, or too many parents.
    pub fn resolve(&self, name: &ProfileName) -> Result<Profile, Refusal> {
        let files: Vec<_> = self.files.iter().map(parse_caller).collect();
        let mut walk = Walk { library: self, files: &files, chain: Vec::new(), read: 0 };
        let merged = match files.first() {
            Some((label, profile)) => walk.merged(Origin::Caller, label.clone(), profile.clone()?)?,
            None => {
                let (origin, profile) = walk.find(name)?;
                walk.merged(origin, name.to_string(), profile)?
            }
        };
        Ok(Profile { extends: Vec::new(), ..merged })
    }
}

/// One of the caller's files, under the name that it gives itself or that its file has. One that is out of
/// form matters only if it is meant.
fn parse_caller(text: &Text) -> (String, Result<Profile, Refusal>) {
    let profile = Profile::parse(&text.label, &text.toml);
    let file = text.label.rsplit('/').next().unwrap_or(&text.label);
    let stem = file.strip_suffix(".toml").unwrap_or(file);
    let own = profile.as_ref().ok().and_then(|profile| profile.name.as_ref());
    (own.map_or_else(|| stem.to_owned(), ToString::to_string), profile)
}

struct Walk<'a> {
    library: &'a Library<'a>,
    files: &'a [(String, Result<Profile, Refusal>)],
    chain: Vec<Step>,
    read: usize,
}

impl Walk<'_> {
    /// `profile` laid over its parents, the later over the earlier.
    fn merged(&mut self, origin: Origin, name: String, profile: Profile) -> Result<Profile, Refusal> {
        self.read += 1;
        if self.chain.len() >= MAX_DEPTH || self.read > MAX_READ {
            return Err(Refusal::new(
                format!("profile {name}: more than {MAX_DEPTH} parents in a row, or {MAX_READ} in all"),
                "profile.depth",
                "extend fewer profiles",
            ));
        }
        self.chain.push(Step { origin, name });
        let mut parents: Option<Profile> = None;
        for parent in &profile.extends {
            let (origin, found) = self.find(parent)?;
            let next = self.merged(origin, parent.to_string(), found)?;
            parents = Some(match parents {
                Some(before) => before.overlaid(next),
                None => next,
            });
            parents.iter().try_for_each(|p| p.check("with its parents"))?;
        }
        self.chain.pop();
        let merged = match parents {
            Some(parents) => parents.overlaid(profile),
            None => profile,
        };
        merged.check("with its parents")?;
        Ok(merged)
    }

    /// The profile that `name` means where the walk is: a profile that extends its own name means the one
    /// that it replaces.
    fn find(&self, name: &ProfileName) -> Result<(Origin, Profile), Refusal> {
        let from = self.chain.last().map_or(Origin::Site, |step| step.origin);
        let on_the_way =
            |origin| self.chain.iter().any(|step| step.origin == origin && step.name == name.as_str());
        let mut circle = false;
        if from == Origin::Caller {
            match self.files.iter().find(|(own, _)| own == name.as_str()) {
                Some(_) if on_the_way(Origin::Caller) => circle = true,
                Some((_, profile)) => return Ok((Origin::Caller, profile.clone()?)),
                None => {}
            }
        }
        if from >= Origin::Site {
            match (self.library.site)(name)? {
                Some(_) if on_the_way(Origin::Site) => circle = true,
                Some(text) => return Ok((Origin::Site, Profile::parse(&text.label, &text.toml)?)),
                None => {}
            }
        }
        match BUILT_IN.iter().find(|(own, _)| *own == name.as_str()) {
            Some(_) if on_the_way(Origin::BuiltIn) => circle = true,
            Some((_, profile)) => {
                return Ok((Origin::BuiltIn, profile.clone()?.lowered(self.library.bounds)));
            }
            None => {}
        }
        Err(if circle {
            Refusal::new(
                format!("profile {name} extends itself"),
                "profile.circle",
                "break the circle of `extends`",
            )
        } else {
            Refusal::new(
                format!("profile {name}"),
                "profile.unknown",
                "name one of the site's, `default` or `base`, or give the path of a file",
            )
        })
    }
}

impl Profile {
    /// Lays `child` over `self`: its lists add to the parent's, its single values replace them. What a
    /// parent denies, masks or protects stays.
    #[must_use]
    pub fn overlaid(mut self, child: Self) -> Self {
        self.name = child.name;
        self.extends = child.extends;
        replace(&mut self.filesystem.home, child.filesystem.home);
        add(&mut self.filesystem.read, child.filesystem.read);
        add(&mut self.filesystem.write, child.filesystem.write);
        for workspace in child.filesystem.workspace {
            match self.filesystem.workspace.iter_mut().find(|w| w.path == workspace.path) {
                Some(parent) => parent.overlay(workspace),
                None => self.filesystem.workspace.push(workspace),
            }
        }
        for scratch in child.filesystem.scratch {
            match self.filesystem.scratch.iter_mut().find(|s| s.path == scratch.path) {
                Some(parent) => {
                    replace(&mut parent.size, scratch.size);
                    replace(&mut parent.exec, scratch.exec);
                }
                None => self.filesystem.scratch.push(scratch),
            }
        }
        // No child takes it back.
        if self.network.default != Some(NetworkDefault::None) {
            replace(&mut self.network.default, child.network.default);
        }
        add(&mut self.network.deny, child.network.deny);
        add(&mut self.network.allow, child.network.allow);
        add(&mut self.network.dns_types, child.network.dns_types);
        add(&mut self.network.publish, child.network.publish);
        replace(&mut self.network.proxy_env, child.network.proxy_env);
        add(&mut self.http, child.http);
        add(&mut self.credential, child.credential);
        add(&mut self.environment.allow, child.environment.allow);
        self.environment.set.extend(child.environment.set);
        add(&mut self.process.exec, child.process.exec);
        replace(&mut self.terminal.filter, child.terminal.filter);
        replace(&mut self.require.landlock_abi, child.require.landlock_abi);
        replace(&mut self.limits.memory, child.limits.memory);
        replace(&mut self.limits.cpus, child.limits.cpus);
        replace(&mut self.limits.pids, child.limits.pids);
        replace(&mut self.limits.disk, child.limits.disk);
        replace(&mut self.limits.inodes, child.limits.inodes);
        replace(&mut self.limits.timeout, child.limits.timeout);
        replace(&mut self.limits.idle, child.limits.idle);
        replace(&mut self.approval.timeout, child.approval.timeout);
        self
    }

    /// Lowers each limit to the site's bound. For built-in profiles, which know nothing of the site; what
    /// somebody wrote down is refused instead.
    #[must_use]
    pub fn lowered(mut self, bounds: &Bounds) -> Self {
        let limits = &mut self.limits;
        limits.memory = limits.memory.map(|v| v.min(Size(bounds.memory)));
        limits.cpus = limits.cpus.map(|v| v.min(bounds.cpus));
        limits.pids = limits.pids.map(|v| v.min(bounds.pids));
        limits.disk = limits.disk.map(|v| v.min(Size(bounds.disk)));
        limits.inodes = limits.inodes.map(|v| v.min(bounds.inodes));
        limits.timeout = limits.timeout.map(|v| v.min(Span(bounds.timeout)));
        limits.idle = limits.idle.map(|v| v.min(Span(bounds.timeout)));
        self
    }
}

impl Workspace {
    fn overlay(&mut self, child: Self) {
        replace(&mut self.mode, child.mode);
        add(&mut self.mask, child.mask);
        add(&mut self.protect, child.protect);
        add(&mut self.sockets, child.sockets);
    }
}

fn replace<T>(parent: &mut Option<T>, child: Option<T>) {
    if child.is_some() {
        *parent = child;
    }
}

/// Adds what is not there yet, in order.
fn add<T: PartialEq>(parent: &mut Vec<T>, child: Vec<T>) {
    for item in child {
        if !parent.contains(&item) {
            parent.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::filesystem::Scratch;
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
            [".env", "**/.env", "**/.env.*", "**/id_ed25519"]
                .iter()
                .all(|name| mask.iter().any(|m| m == name))
        );
        assert_eq!(default.filesystem.scratch[0].size, Some(Size(512 << 20)));
        assert_eq!(default.limits.timeout, Some(Span(8 * 3_600_000)));
    }

    #[test]
    fn a_file_out_of_form_matters_only_if_it_is_meant() {
        let broken = ("other.toml", "schema = 2");
        assert!(resolve(&[("x.toml", "schema = 1"), broken], &[], "x").is_ok());
        let rule = |files: &[(&str, &str)]| resolve(files, &[("other", "schema = 1")], "x").unwrap_err().rule;
        assert_eq!(rule(&[broken]), "profile.form");
        // Not the site's of that name instead.
        assert_eq!(rule(&[("x.toml", "schema = 1\nextends = ['other']"), broken]), "profile.form");
    }

    #[test]
    fn built_in_limits_are_lowered_and_written_ones_stay() {
        let bounds = Bounds { memory: 1 << 30, ..Bounds::default() };
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
        assert_eq!(resolve(&own, &site, "x").unwrap_err().rule, "profile.unknown");
    }

    #[test]
    fn circles_depth_and_unknown_names_are_refused() {
        let circle = [("a.toml", "schema = 1\nextends = ['b']"), ("b.toml", "schema = 1\nextends = ['a']")];
        assert_eq!(resolve(&circle, &[], "a").unwrap_err().rule, "profile.circle");
        let own = [("a.toml", "schema = 1\nextends = ['a']")];
        assert_eq!(resolve(&own, &[], "a").unwrap_err().rule, "profile.circle");
        assert_eq!(resolve(&[], &[], "nobody").unwrap_err().rule, "profile.unknown");
        let long: Vec<_> =
            (0..9).map(|i| (format!("p{i}.toml"), format!("schema = 1\nextends = ['p{}']", i + 1))).collect();
        let long: Vec<_> = long.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(resolve(&long, &[], "p0").unwrap_err().rule, "profile.depth");
    }

    #[test]
    fn a_tree_that_doubles_ends() {
        let wide: Vec<_> = (0..7)
            .map(|i| (format!("p{i}.toml"), format!("schema = 1\nextends = ['p{0}', 'p{0}', 'p{0}']", i + 1)))
            .chain([("p7.toml".to_owned(), "schema = 1".to_owned())])
            .collect();
        let wide: Vec<_> = wide.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(resolve(&wide, &[], "p0").unwrap_err().rule, "profile.depth");
    }

    fn any_profile() -> impl Strategy<Value = Profile> {
        let words = || proptest::collection::vec("[a-d.*~/]{1,3}", 0..4);
        let workspaces = proptest::collection::vec((words(), words()), 0..3);
        (words(), words(), workspaces, proptest::option::of(0u64..9)).prop_map(
            |(read, deny, spaces, pids)| {
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
                profile.filesystem.scratch =
                    vec![Scratch { path: "/tmp".into(), size: pids.map(Size), exec: None }];
                profile.limits.pids = pids;
                profile
            },
        )
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
            let _ = Profile::parse("x", &text);
            let _ = resolve(&[(&name, &format!("schema = 1\n{text}"))], &[], "default");
        }
    }
}
