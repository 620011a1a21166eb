//! Where no mount of a caller's may be: system directories, the home, what the user's own programs run by themselves.

use crate::Refusal;
use crate::mode::Mode;
use crate::mount::Workspace;
use crate::names::{AbsPath, RelPath};
use crate::rule::Rule;

/// Directories that are the session's own or the system's: nothing of a caller's is mounted over them.
const RESERVED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/run/agentd",
    "/sbin",
    "/sys",
    "/usr",
];

/// Files of /etc that are made for each session.
const GENERATED: &[&str] =
    &["group", "hostname", "hosts", "machine-id", "mtab", "nsswitch.conf", "passwd", "resolv.conf"];

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

/// What is read besides may be in /etc, where sessions have but a part of the host's.
pub(crate) fn check_input(path: &AbsPath) -> Result<(), Refusal> {
    let below = path.as_str().strip_prefix("/etc/");
    let own = |below: &str| GENERATED.iter().any(|name| below.split('/').next() == Some(name));
    match below {
        Some(below) if !own(below) => Ok(()),
        _ => check(path),
    }
}

pub(crate) fn check(path: &AbsPath) -> Result<(), Refusal> {
    let reserved = RESERVED.iter().any(|r| {
        path.as_str() == *r
            || (*r != "/" && path.as_str().strip_prefix(r).is_some_and(|rest| rest.starts_with('/')))
    });
    if reserved {
        return Err(Refusal::new(
            format!("a mount at {path}"),
            Rule::PlanReserved,
            "system directories are the session's own; choose a path outside them",
        ));
    }
    Ok(())
}

/// A workspace must not hold the caller's home.
pub(crate) fn not_the_home(path: &AbsPath, home: &AbsPath) -> Result<(), Refusal> {
    if home.starts_with(path) {
        return Err(Refusal::new(
            format!("workspace {path}"),
            Rule::WorkspaceHome,
            "it holds your whole home: cd to a project directory, or name one with --workspace",
        ));
    }
    Ok(())
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
        let place = place.map_err(|e| e.refusal(Rule::WorkspaceStartup))?;
        if workspace.path.starts_with(&place) || place.starts_with(&workspace.path) {
            return Err(Refusal::new(
                format!(
                    "{} to write to, in mode direct: your own programs run or trust what is in {place}",
                    workspace.path
                ),
                Rule::WorkspaceStartup,
                "use mode overlay, or name a directory below it that nothing is run from",
            ));
        }
    }
    Ok(())
}
