//! From the command line of `run` to a request: paths as the kernel names them, values of variables, the size of the
//! terminal.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use agentd_proto::v1::{EnvVar, RunSpec, WorkspaceSpec};
use agentd_request::limits::asked_limits;
use prost::bytes::Bytes;

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::offer::utf8;
use crate::terminal::{Streams, window};
use agentd_policy::rule::Rule;

/// The most of the caller's environment that goes along.
const MAX_ENV: usize = 64 << 10;

/// What the command line asks for. Nothing of it leaves this process before the profile says what may.
pub struct Asked {
    /// The profile's name or file; `None`: the default one.
    pub profile: Option<OsString>,
    /// The caller's variables, all of them.
    pub environment: Vec<(OsString, OsString)>,
    /// The rest, without profile and environment.
    pub spec: RunSpec,
}

/// What the command line asks for.
///
/// # Errors
/// What cannot be meant.
pub fn asked(args: RunArgs) -> Result<Asked, Failure> {
    let cwd = std::env::current_dir().map_err(|error| {
        Failure::refused("the current directory", Rule::CwdOpen, format!("{error}; go to one that exists"))
    })?;
    let streams = Streams::look();
    let both = streams.stdin && (streams.stdout || args.detach);
    let terminal = args.tty || (!args.no_tty && both);
    let workspace = args.workspace.iter().map(|text| workspace(text)).collect::<Result<_, _>>()?;
    let mut read = inputs(&args.read)?;
    if terminal && let Some(entry) = own_terminfo() {
        read.push(entry);
    }
    let spec = RunSpec {
        name: args.name.unwrap_or_default(),
        command: args.command.into_iter().map(bytes).collect(),
        env: args.env.into_iter().map(env_flag).filter_map(Result::transpose).collect::<Result<_, _>>()?,
        cwd: utf8(&cwd)?,
        workspace,
        read,
        write: args
            .write
            .iter()
            .map(|path| absolute("write", Rule::WriteOpen, Path::new(path)))
            .collect::<Result<_, _>>()?,
        mask: args.mask,
        allow: args.allow,
        deny: args.deny,
        publish: args.publish,
        limits: Some(asked_limits(&args.limits.0)),
        terminal,
        window: terminal.then(window),
        remove: args.rm,
        detach: args.detach,
        umask: Some(umask()),
        ..RunSpec::default()
    };
    Ok(Asked { profile: args.profile, environment: std::env::vars_os().collect(), spec })
}

/// A text of the command line as the API carries it.
pub fn bytes(text: OsString) -> Bytes {
    text.into_vec().into()
}

/// The caller's own description of the terminal (`terminfo(5)`), if the system has none.
fn own_terminfo() -> Option<String> {
    const SYSTEM: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];
    let term = std::env::var("TERM").ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte);
    let first = term.bytes().next().filter(|_| term.bytes().all(plain) && !term.starts_with('.'))?;
    // In a directory that is called by the first letter, or by its number.
    let below = [format!("{}/{term}", char::from(first)), format!("{first:x}/{term}")];
    let entry = |dir: &Path| below.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    if SYSTEM.iter().any(|dir| entry(Path::new(dir)).is_some()) {
        return None;
    }
    let own = entry(&PathBuf::from(std::env::var_os("HOME")?).join(".terminfo"))?;
    absolute("input", Rule::InputOpen, &own).ok()
}

/// This process's (`umask(2)`). There is one thread yet.
fn umask() -> u32 {
    let own = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(own);
    own.as_raw_mode()
}

/// `DIR[:MODE]`. What follows a colon and is no mode belongs to the directory's name, if there is one of that
/// name.
fn workspace(text: &OsStr) -> Result<WorkspaceSpec, Failure> {
    const MODES: &[&str] = &["overlay", "direct", "worktree", "ro"];
    let (dir, mode) = split_mode(text.as_bytes(), MODES);
    if let Some(typo) = mistyped(text).filter(|_| mode.is_empty()) {
        return Err(Failure::refused(
            format!("workspace mode {}", typo.display()),
            Rule::WorkspaceMode,
            "write DIR:overlay, DIR:direct or DIR:ro",
        ));
    }
    let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
    Ok(WorkspaceSpec { path: absolute("workspace", Rule::WorkspaceOpen, dir)?, mode: mode.to_owned() })
}

fn split_mode<'a>(text: &'a [u8], modes: &[&'static str]) -> (&'a [u8], &'static str) {
    modes
        .iter()
        .find_map(|mode| Some((text.strip_suffix(mode.as_bytes())?.strip_suffix(b":")?, *mode)))
        .unwrap_or((text, ""))
}

/// What stands where a mode would, after the name of a directory that exists.
fn mistyped(text: &OsStr) -> Option<&OsStr> {
    let bytes = text.as_bytes();
    let cut = bytes.iter().rposition(|b| *b == b':')?;
    let (dir, word) = (&bytes[..cut], OsStr::from_bytes(&bytes[cut + 1..]));
    let dir = if dir.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(dir) };
    let is_mode = !word.as_bytes().contains(&b'/') && Path::new(dir).is_dir();
    (is_mode && Path::new(text).symlink_metadata().is_err()).then_some(word)
}

/// The names of inputs as they were given: a link appears under its own name as well.
fn inputs(given: &[OsString]) -> Result<Vec<String>, Failure> {
    let (mut names, mut real) = (Vec::new(), Vec::new());
    for path in given {
        let found = absolute("input", Rule::InputOpen, Path::new(path))?;
        let name = own_name(Path::new(path)).unwrap_or_else(|| found.clone());
        // Another name of what has one: it can be at one place only.
        if names.contains(&name) || !real.contains(&found) {
            names.push(name);
            real.push(found);
        }
    }
    Ok(names)
}

/// `path` from the root on, with its links. Where it has `..`, which leads elsewhere behind a link, the last name alone
/// is kept; nothing if that is none, or one that the API cannot carry.
fn own_name(path: &Path) -> Option<String> {
    let mut whole = std::path::absolute(path).ok()?;
    if whole.components().any(|component| component == std::path::Component::ParentDir) {
        whole = whole.parent()?.canonicalize().ok()?.join(whole.file_name()?);
    }
    let text = whole.to_str()?.trim_end_matches('/');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The kernel's name for `path`.
fn absolute(word: &str, rule: Rule, path: &Path) -> Result<String, Failure> {
    let found: PathBuf = path.canonicalize().map_err(|error| {
        Failure::refused(
            format!("{word} {}: {error}", path.display()),
            rule,
            "name one that exists and that you may read",
        )
    })?;
    utf8(&found)
}

/// `KEY=VALUE`, or `KEY` with the caller's value; nothing if the caller has none.
///
/// # Errors
/// If there is no name.
pub fn env_flag(text: OsString) -> Result<Option<EnvVar>, Failure> {
    let text = text.into_vec();
    let cut = text.iter().position(|b| *b == b'=');
    let (key, value) = match cut {
        Some(0) => {
            return Err(Failure::refused(
                format!("--env {}", String::from_utf8_lossy(&text)),
                Rule::EnvironmentName,
                "write KEY=VALUE, or KEY for the value that you have",
            ));
        }
        Some(cut) => (text[..cut].to_vec(), Some(text[cut + 1..].to_vec())),
        None => {
            let value = std::env::var_os(OsStr::from_bytes(&text)).map(OsString::into_vec);
            (text, value)
        }
    };
    Ok(value.map(|value| EnvVar { key: key.into(), value: value.into() }))
}

/// Variables, the short ones first, as far as there is room.
pub fn bounded(vars: Vec<(Bytes, Bytes)>) -> Vec<EnvVar> {
    let mut vars: Vec<_> = vars.into_iter().map(|(key, value)| EnvVar { key, value }).collect();
    vars.sort_by_key(|var| var.key.len() + var.value.len());
    let mut size = 0;
    vars.retain(|var| {
        size += var.key.len() + var.value.len() + 2;
        size <= MAX_ENV
    });
    vars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_follows_the_last_colon() {
        let modes = &["overlay", "ro"];
        assert_eq!(split_mode(b"/a:ro", modes), (&b"/a"[..], "ro"));
        assert_eq!(split_mode(b"/a:b", modes), (&b"/a:b"[..], ""));
        assert_eq!(split_mode(b"ro", modes), (&b"ro"[..], ""));
        assert_eq!(split_mode(b"/a:ro:overlay", modes), (&b"/a:ro"[..], "overlay"));
        for wrong in ["/usr:rw", ":rw", "/usr:"] {
            let refusal = workspace(OsStr::new(wrong)).unwrap_err().to_string();
            assert!(refusal.contains("(workspace.mode)"), "{refusal}");
        }
        let spec = workspace(OsStr::new("/usr/../usr:ro")).unwrap();
        assert_eq!((spec.path.as_str(), spec.mode.as_str()), ("/usr", "ro"));
        let refusal = workspace(OsStr::new("/nonexistent")).unwrap_err().to_string();
        assert!(refusal.contains("(workspace.open)"), "{refusal}");
    }

    #[test]
    fn env_flags() {
        let flag = |text: &str| env_flag(text.into()).map(|v| v.map(|v| (v.key, v.value)));
        assert_eq!(flag("A=b=c").unwrap(), Some(("A".into(), "b=c".into())));
        assert_eq!(flag("A=").unwrap(), Some(("A".into(), "".into())));
        assert_eq!(flag("AGENTCTL_TEST_NOT_SET").unwrap(), None);
        assert!(flag("PATH").unwrap().is_some());
        assert!(flag("=b").is_err());
    }

    #[test]
    fn the_environment_is_bounded_and_short_variables_come_first() {
        let big = (Bytes::from("BIG"), Bytes::from("x".repeat(MAX_ENV)));
        let sent = bounded(vec![big, ("TERM".into(), "xterm".into())]);
        assert_eq!(sent.iter().map(|v| v.key.as_ref()).collect::<Vec<_>>(), [b"TERM"]);
    }
}
