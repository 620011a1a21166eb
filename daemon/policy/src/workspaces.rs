//! The directories that a session works in: the profile's, those of flags, and how each is given.

use crate::Refusal;
use crate::decide::{Here, Request};
use crate::git::Place;
use crate::names::{AbsPath, RelPath};
use crate::pattern::NamePattern;
use crate::plan::{Mode, Workspace};
use crate::profile::{self, Profile, WorkspaceMode};

/// Below a home, what its user's programs run or trust by themselves: at a login, when a shell starts, when a
/// connection comes in.
const RUN_BY_THEMSELVES: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".bashrc.d",
    ".config/agentd",
    ".config/autostart",
    ".config/environment.d",
    ".config/fish",
    ".config/systemd",
    ".local/share/systemd",
];

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
            "mask.workspace",
            "leave it out, or give a workspace: masks are names below one",
        ));
    }
    let more = names("mask", &literal(&request.mask))?;
    let more_anywhere = patterns(&request.mask)?;
    for workspace in &mut all {
        workspace.mask.extend(more.iter().cloned());
        workspace.mask_anywhere.extend(more_anywhere.iter().cloned());
    }
    all.extend(request.git.iter().filter_map(Place::workspace));
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
    entry: Option<&profile::Workspace>,
) -> Result<Workspace, Refusal> {
    let (mut mask, mut mask_anywhere, mut protect, mut sockets) = Default::default();
    if let Some(entry) = entry {
        mask = names("mask", &literal(&entry.mask))?;
        mask_anywhere = patterns(&entry.mask)?;
        protect = names("protect", &entry.protect)?;
        sockets = names("sockets", &entry.sockets)?;
    }
    let mode = mode.unwrap_or_else(|| entry.map_or(Mode::Overlay, mode_of));
    Ok(Workspace { path, descriptor: 0, mode, mask, mask_anywhere, protect, sockets, git: None })
}

/// In mode `direct` a workspace must not hold, nor lie in, what the caller's programs run by themselves.
///
/// # Errors
/// Which of it.
pub(crate) fn not_run_by_itself(workspace: &Workspace, home: &AbsPath) -> Result<(), Refusal> {
    if workspace.mode != Mode::Direct {
        return Ok(());
    }
    for name in RUN_BY_THEMSELVES {
        let place = RelPath::parse(name).and_then(|name| home.join(&name));
        let place = place.map_err(|e| e.refusal("workspace.startup"))?;
        if workspace.path.starts_with(&place) || place.starts_with(&workspace.path) {
            return Err(Refusal::new(
                format!(
                    "{} to write to, in mode direct: your own programs run or trust what is in {place}",
                    workspace.path
                ),
                "workspace.startup",
                "use mode overlay, or name a directory below it that nothing is run from",
            ));
        }
    }
    Ok(())
}

fn mode_of(entry: &profile::Workspace) -> Mode {
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
                    "mask.glob",
                    "this version takes `**/NAME`, with at most one `*` in the last name, and literal names",
                )
            })
        })
        .collect()
}

/// Literal names below a workspace.
fn names(key: &str, texts: &[String]) -> Result<Vec<RelPath>, Refusal> {
    texts
        .iter()
        .map(|text| {
            if text.contains(['*', '?', '[']) {
                return Err(Refusal::new(
                    format!("{key} {text:?}"),
                    format!("{key}.glob"),
                    "this version takes literal names such as `.env`, and `**/NAME` in masks",
                ));
            }
            let literal = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
            RelPath::parse(literal).map_err(|e| {
                Refusal::new(
                    format!("{key} {text:?}: {e}"),
                    format!("{key}.name"),
                    "give a name below the workspace",
                )
            })
        })
        .collect()
}
