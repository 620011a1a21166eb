//! The directories that a session works in: the profile's, those of flags, and how each is given.

use crate::Refusal;
use crate::git::{Place, Use};
use crate::mode::Mode;
use crate::mount::Workspace;
use crate::names::{AbsPath, RelPath};
use crate::pattern::NamePattern;
use crate::profile::filesystem::WorkspaceMode;
use crate::profile::{Profile, filesystem};
use crate::request::{Here, Request};
use crate::rule::Rule;

/// All of them, in the order of their descriptors.
///
/// # Errors
/// A path, mode or name that is none, and a mask where there is no workspace.
pub(crate) fn of(request: &Request, profile: &Profile, here: &Here<'_>) -> Result<Vec<Workspace>, Refusal> {
    let mut all: Vec<Workspace> = Vec::new();
    let mut flags = request.workspace.iter().cloned().peekable();
    for entry in &profile.filesystem.workspace {
        let flag = if entry.path == "." && all.is_empty() { flags.next() } else { None };
        let (path, mode) = match flag {
            Some((path, mode)) => (path, mode),
            None => (here.path("filesystem.workspace.path", &entry.path)?, None),
        };
        all.push(workspace(path, mode, Some(entry))?);
    }
    // What is given besides is covered as the caller's own directory is.
    let own = profile.filesystem.workspace.iter().find(|entry| entry.path == ".");
    let writes = writes(request, profile, here)?.into_iter().map(|path| (path, Some(Mode::Direct)));
    for (path, mode) in flags.chain(writes) {
        all.push(Workspace { sockets: Vec::new(), ..workspace(path, mode, own)? });
    }
    if all.is_empty() && !request.mask.is_empty() {
        return Err(Refusal::new(
            "a mask without a workspace",
            Rule::MaskWorkspace,
            "leave it out, or give a workspace: masks are names below one",
        ));
    }
    let more = names(Key::Mask, &literal(&request.mask))?;
    let more_anywhere = patterns(&request.mask)?;
    for workspace in &mut all {
        workspace.mask.extend(more.iter().cloned());
        workspace.mask_anywhere.extend(more_anywhere.iter().cloned());
    }
    all.extend(request.git.iter().filter_map(of_git));
    for (workspace, number) in all.iter_mut().zip(0..) {
        workspace.descriptor = number;
    }
    Ok(all)
}

/// What `filesystem.write` and `--write` name, each once.
fn writes(request: &Request, profile: &Profile, here: &Here<'_>) -> Result<Vec<AbsPath>, Refusal> {
    let mut paths = Vec::new();
    for text in &profile.filesystem.write {
        paths.push(here.path("filesystem.write", text)?);
    }
    for path in &request.write {
        if !paths.contains(path) {
            paths.push(path.clone());
        }
    }
    Ok(paths)
}

/// One, covered as `entry` says.
fn workspace(
    path: AbsPath,
    mode: Option<Mode>,
    entry: Option<&filesystem::Workspace>,
) -> Result<Workspace, Refusal> {
    let (mut mask, mut mask_anywhere, mut protect, mut sockets) = Default::default();
    if let Some(entry) = entry {
        mask = names(Key::Mask, &literal(&entry.mask))?;
        mask_anywhere = patterns(&entry.mask)?;
        protect = names(Key::Protect, &entry.protect)?;
        sockets = names(Key::Sockets, &entry.sockets)?;
    }
    let mode = mode.unwrap_or_else(|| entry.map_or(Mode::Overlay, mode_of));
    Ok(Workspace { path, descriptor: 0, mode, mask, mask_anywhere, protect, sockets, git: None })
}

fn mode_of(entry: &filesystem::Workspace) -> Mode {
    match entry.mode {
        Some(WorkspaceMode::Ro) => Mode::Ro,
        Some(WorkspaceMode::Direct) => Mode::Direct,
        // Worktrees were refused before.
        Some(WorkspaceMode::Overlay | WorkspaceMode::Worktree) | None => Mode::Overlay,
    }
}

/// The masks that are names below a workspace.
fn literal(masks: &[String]) -> Vec<String> {
    masks.iter().filter(|text| !NamePattern::is_meant_by(text)).cloned().collect()
}

/// Those that are meant at any depth.
fn patterns(masks: &[String]) -> Result<Vec<NamePattern>, Refusal> {
    let meant = masks.iter().filter(|text| NamePattern::is_meant_by(text));
    meant
        .map(|text| {
            NamePattern::parse(text).ok_or_else(|| {
                Refusal::new(
                    format!("mask {text:?}"),
                    Rule::MaskGlob,
                    "this version takes `**/NAME`, with at most one `*` in the last name, and literal names",
                )
            })
        })
        .collect()
}

/// A list of names below a workspace.
#[derive(Clone, Copy)]
enum Key {
    Mask,
    Protect,
    Sockets,
}

impl Key {
    /// Its name, and the rules that a pattern and a malformed name in it break.
    fn parts(self) -> (&'static str, Rule, Rule) {
        match self {
            Self::Mask => ("mask", Rule::MaskGlob, Rule::MaskName),
            Self::Protect => ("protect", Rule::ProtectGlob, Rule::ProtectName),
            Self::Sockets => ("sockets", Rule::SocketsGlob, Rule::SocketsName),
        }
    }
}

/// Literal names below a workspace.
fn names(key: Key, texts: &[String]) -> Result<Vec<RelPath>, Refusal> {
    let (key, glob, malformed) = key.parts();
    texts
        .iter()
        .map(|text| {
            if text.contains(['*', '?', '[']) {
                return Err(Refusal::new(
                    format!("{key} {text:?}"),
                    glob,
                    "this version takes literal names such as `.env`, and `**/NAME` in masks",
                ));
            }
            let literal = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
            RelPath::parse(literal).map_err(|e| {
                Refusal::new(format!("{key} {text:?}: {e}"), malformed, "give a name below the workspace")
            })
        })
        .collect()
}

/// The workspace that a place of a repository is in a plan, if it is one.
fn of_git(place: &Place) -> Option<Workspace> {
    let Use::Work(part, mode) = place.used else { return None };
    Some(Workspace {
        path: place.path.clone(),
        descriptor: 0,
        mode,
        mask: Vec::new(),
        mask_anywhere: Vec::new(),
        protect: Vec::new(),
        sockets: Vec::new(),
        git: Some(part),
    })
}

/// Has the workspaces that are given as they are protect what the places of use [`Use::Guard`] name.
///
/// # Errors
/// If that is a whole workspace.
pub(crate) fn guard(places: &[Place], workspaces: &mut [Workspace]) -> Result<(), Refusal> {
    for workspace in workspaces.iter_mut().filter(|w| w.mode == Mode::Direct && w.git.is_none()) {
        for place in places.iter().filter(|place| place.used == Use::Guard) {
            match place.path.below(&workspace.path) {
                Some(Some(name)) => workspace.protect.push(name),
                Some(None) => {
                    return Err(Refusal::new(
                        format!(
                            "{}, where the configuration of its repository has git run hooks",
                            place.path
                        ),
                        Rule::WorkspaceHooks,
                        "use mode overlay, or set core.hooksPath to a directory below it",
                    ));
                }
                None => {}
            }
        }
    }
    Ok(())
}

/// A profile that the agent could change would be its next session's.
pub(crate) fn protect_profiles(files: &[AbsPath], workspaces: &mut [Workspace]) -> Result<(), Refusal> {
    for workspace in workspaces.iter_mut().filter(|w| w.mode != Mode::Ro) {
        for file in files {
            match file.below(&workspace.path) {
                Some(Some(name)) => workspace.protect.push(name),
                Some(None) => {
                    return Err(Refusal::new(
                        format!("workspace {} holds the profiles of its own session", workspace.path),
                        Rule::WorkspaceProfiles,
                        "choose another workspace, or mode ro",
                    ));
                }
                None => {}
            }
        }
    }
    Ok(())
}
