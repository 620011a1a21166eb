//! A request as the API has it, parsed into types that hold only what is well-formed. The client that asks and the
//! service that answers read it by the same rules, so that both come to the same plan.

pub mod limits;

use agentd_policy::Refusal;
use agentd_policy::allow::MAX_RULES;
use agentd_policy::git::{Place, Use};
use agentd_policy::mode::{Mode, Role};
use agentd_policy::mount::{MAX_MOUNTS, MAX_NAMES};
use agentd_policy::names::{AbsPath, SessionId, SessionName};
use agentd_policy::network::Change;
use agentd_policy::plan::{MAX_ARGC, WindowSize};
use agentd_policy::ports::MAX_LOCAL;
use agentd_policy::profile::Profile;
use agentd_policy::publish::Publish;
use agentd_policy::request::{Request, Wanted};
use agentd_policy::rule::Rule;
use agentd_proto::v1::{self, OfferedPath, RunSpec};

/// What files are made without, where the client does not say.
const DEFAULT_UMASK: u32 = 0o022;

/// A refusal of something that the API's own form does not allow.
pub fn malformed(what: impl AsRef<str>, rule: Rule) -> Refusal {
    Refusal::new(what, rule, "use an agentctl of the daemon's version")
}

/// The resolved profile of `spec`, which extends no other.
///
/// # Errors
/// The line, the key and the rule that it breaks.
pub fn profile(spec: &RunSpec) -> Result<Profile, Refusal> {
    let profile = Profile::parse("of the request", &spec.profile)?;
    match profile.extends.first() {
        None => Ok(profile),
        Some(parent) => Err(malformed(format!("a profile that extends {parent}"), Rule::RequestProfile)),
    }
}

/// The request of `spec` for a session that will be `session`. The profile is not looked at here.
///
/// # Errors
/// The first rule that it breaks.
pub fn parse(spec: RunSpec, session: SessionId) -> Result<Request, Refusal> {
    for (what, count, most) in [
        ("arguments", spec.command.len(), MAX_ARGC),
        ("variables", spec.env.len(), MAX_ARGC),
        ("variables of the caller", spec.caller_env.len(), 4 * MAX_ARGC),
        ("workspaces", spec.workspace.len(), MAX_MOUNTS),
        ("paths to write to", spec.write.len(), MAX_MOUNTS),
        ("paths to read", spec.read.len(), MAX_MOUNTS),
        ("paths of repositories", spec.git.len(), MAX_NAMES),
        ("masks", spec.mask.len(), MAX_NAMES),
        ("places of profiles", spec.profile_places.len(), MAX_NAMES),
        ("rules of the network", spec.allow.len() + spec.deny.len(), MAX_RULES),
        ("published ports", spec.publish.len(), MAX_LOCAL),
    ] {
        if count > most {
            return Err(Refusal::new(
                format!("{count} {what}"),
                Rule::RequestSize,
                format!("give at most {most}"),
            ));
        }
    }
    let workspace = |given: &v1::WorkspaceSpec| Ok((abs("workspace", &given.path)?, flag_mode(&given.mode)?));
    Ok(Request {
        session,
        command: spec.command.into_iter().map(Vec::from).collect(),
        env: spec.env.into_iter().map(pair).collect(),
        caller_env: spec.caller_env.into_iter().map(pair).collect(),
        cwd: abs("current directory", &spec.cwd)?,
        workspace: spec.workspace.iter().map(workspace).collect::<Result<_, Refusal>>()?,
        write: spec.write.iter().map(|path| abs("path to write to", path)).collect::<Result<_, _>>()?,
        read: spec.read.iter().map(|path| abs("path to read", path)).collect::<Result<_, _>>()?,
        git: spec.git.iter().map(place).collect::<Result<_, _>>()?,
        mask: spec.mask,
        profile_files: spec
            .profile_places
            .iter()
            .map(|path| abs("profile", path))
            .collect::<Result<_, _>>()?,
        network: Change::parse(&spec.allow, &spec.deny)?,
        publish: spec.publish.iter().map(|text| Publish::parse(text)).collect::<Result<_, _>>()?,
        limits: spec.limits.as_ref().map(limits::asked).unwrap_or_default(),
        terminal: terminal(spec.terminal, spec.window)?,
        remove: spec.remove,
        umask: umask(spec.umask)?,
        offered: None,
    })
}

/// A path of a repository.
fn place(given: &v1::GitPlace) -> Result<Place, Refusal> {
    let used = Use::parse(&given.part, &given.mode)
        .ok_or_else(|| malformed(format!("git {:?} {:?}", given.part, given.mode), Rule::RequestGit))?;
    Ok(Place { path: abs("git", &given.path)?, used })
}

/// The same as the API has it.
pub fn git_place(place: &Place) -> v1::GitPlace {
    let (part, mode) = place.used.words();
    v1::GitPlace { path: place.path.to_string(), part: part.to_owned(), mode: mode.to_owned() }
}

fn umask(given: Option<u32>) -> Result<u32, Refusal> {
    match given.unwrap_or(DEFAULT_UMASK) {
        mask if mask <= 0o777 => Ok(mask),
        mask => Err(malformed(format!("umask {mask:o}"), Rule::RequestUmask)),
    }
}

/// The name that the session is to have.
///
/// # Errors
/// If it is malformed.
pub fn name(spec: &RunSpec) -> Result<Option<SessionName>, Refusal> {
    match spec.name.as_str() {
        "" => Ok(None),
        name => SessionName::parse(name).map(Some).map_err(|e| e.refusal(Rule::SessionName)),
    }
}

/// The paths that a client offered.
///
/// # Errors
/// A role, mode or path that is none.
pub fn offered(paths: &[OfferedPath]) -> Result<Vec<Wanted>, Refusal> {
    if paths.len() > 2 * MAX_MOUNTS {
        return Err(malformed(format!("{} offered paths", paths.len()), Rule::RequestPaths));
    }
    let parse = |path: &OfferedPath| {
        let role = match path.role.as_str() {
            "workspace" => Role::Workspace,
            "input" => Role::Input,
            other => return Err(malformed(format!("role {other:?}"), Rule::RequestPaths)),
        };
        let mode =
            mode(&path.mode).ok_or_else(|| malformed(format!("mode {:?}", path.mode), Rule::RequestPaths))?;
        Ok(Wanted { role, mode, path: abs("offered path", &path.path)? })
    };
    paths.iter().map(parse).collect()
}

/// A path that a client offers, as the API has it.
pub fn offered_path(wanted: &Wanted) -> OfferedPath {
    OfferedPath {
        path: wanted.path.to_string(),
        role: wanted.role.as_str().to_owned(),
        mode: wanted.mode.as_str().to_owned(),
    }
}

/// Rows and columns.
///
/// # Errors
/// If a terminal cannot have as many.
pub fn window(size: v1::WindowSize) -> Result<WindowSize, Refusal> {
    match (u16::try_from(size.rows), u16::try_from(size.cols)) {
        (Ok(rows), Ok(cols)) => Ok(WindowSize { rows, cols }),
        _ => Err(malformed(format!("a window of {} by {}", size.rows, size.cols), Rule::RequestWindow)),
    }
}

/// A terminal of that size, if one is wanted.
///
/// # Errors
/// If a terminal cannot have that size.
pub fn terminal(wanted: bool, size: Option<v1::WindowSize>) -> Result<Option<WindowSize>, Refusal> {
    match (wanted, size) {
        (false, _) => Ok(None),
        (true, Some(size)) => window(size).map(Some),
        (true, None) => Ok(Some(WindowSize { rows: 24, cols: 80 })),
    }
}

fn pair(var: v1::EnvVar) -> (Vec<u8>, Vec<u8>) {
    (var.key.into(), var.value.into())
}

fn abs(what: &str, text: &str) -> Result<AbsPath, Refusal> {
    AbsPath::parse(text).map_err(|e| {
        Refusal::new(
            format!("{what}: {e}"),
            Rule::RequestPath,
            "give an absolute path without `.`, `..` and `//`",
        )
    })
}

fn flag_mode(text: &str) -> Result<Option<Mode>, Refusal> {
    match (text, mode(text)) {
        ("", _) => Ok(None),
        (_, Some(mode)) => Ok(Some(mode)),
        ("worktree", None) => Err(Refusal::new(
            "workspace mode \"worktree\"",
            Rule::ProfileUnenforced,
            "this version cannot do it yet; use overlay, direct or ro",
        )),
        (other, None) => Err(Refusal::new(
            format!("workspace mode {other:?}"),
            Rule::RequestMode,
            "use overlay, direct or ro",
        )),
    }
}

fn mode(text: &str) -> Option<Mode> {
    [Mode::Ro, Mode::Overlay, Mode::Direct].into_iter().find(|mode| mode.as_str() == text)
}
