//! The environment of a session: nothing of the caller's but what its profile or a flag names.

use std::collections::BTreeMap;

use crate::Refusal;
use crate::egress::Egress;
use crate::git::Use;
use crate::names::AbsPath;
use crate::profile::Profile;
use crate::request::{CallerFacts, Request};
use crate::rule::Rule;

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a terminal is taken for if the caller does not say.
const TERM: &str = "xterm-256color";

/// The explicit proxy, as the programs know it that look for one.
const PROXY: [(&str, &str); 8] = [
    ("http_proxy", PROXY_URL),
    ("https_proxy", PROXY_URL),
    ("all_proxy", PROXY_URL),
    ("no_proxy", NO_PROXY),
    ("HTTP_PROXY", PROXY_URL),
    ("HTTPS_PROXY", PROXY_URL),
    ("ALL_PROXY", PROXY_URL),
    ("NO_PROXY", NO_PROXY),
];
/// Where it listens in every session that can have a network, for programs that insist on IPv6 as well.
const PROXY_URL: &str = "http://localhost:3128";
/// What does not go by it.
const NO_PROXY: &str = "localhost,.localhost,127.0.0.1,::1";

/// Variables that make a loader, shell or interpreter run what they name. They come along only when a flag
/// names them.
const DANGEROUS: &[&[u8]] = &[
    b"BASHOPTS",
    b"BASH_ENV",
    b"ENV",
    b"GCONV_PATH",
    b"GLIBC_TUNABLES",
    b"IFS",
    b"JAVA_TOOL_OPTIONS",
    b"NODE_OPTIONS",
    b"PERL5OPT",
    b"PROMPT_COMMAND",
    b"PYTHONHOME",
    b"PYTHONSTARTUP",
    b"RUBYOPT",
    b"SHELLOPTS",
];
/// The same, by how they begin.
const DANGEROUS_PREFIXES: &[&[u8]] = &[b"LD_", b"BASH_FUNC_", b"DYLD_"];

fn is_dangerous(name: &[u8]) -> bool {
    DANGEROUS.contains(&name) || DANGEROUS_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Name and value.
type Variable = (Vec<u8>, Vec<u8>);

/// Whether `profile` lets the caller's variable `name` into a session, with a terminal or without.
///
/// # Errors
/// If one of its patterns is malformed, or names a variable that only a flag may name.
pub fn let_in(profile: &Profile, name: &[u8], terminal: bool) -> Result<bool, Refusal> {
    Ok(is_let_in(&patterns(profile)?, name, terminal))
}

fn is_let_in(patterns: &[Pattern<'_>], name: &[u8], terminal: bool) -> bool {
    (terminal && name == b"TERM") || (!is_dangerous(name) && patterns.iter().any(|p| p.matches(name)))
}

fn patterns(profile: &Profile) -> Result<Vec<Pattern<'_>>, Refusal> {
    profile.environment.allow.iter().map(|pattern| Pattern::parse(pattern)).collect()
}

/// The whole environment, sorted by name.
pub(crate) fn of(
    request: &Request,
    profile: &Profile,
    caller: &CallerFacts,
    cwd: &AbsPath,
    egress: Option<&Egress>,
) -> Result<Vec<Variable>, Refusal> {
    let patterns = patterns(profile)?;
    let mut env = BTreeMap::new();
    let mut put = |name: &[u8], value: &[u8]| env.insert(name.to_vec(), value.to_vec());
    put(b"PATH", PATH.as_bytes());
    if request.terminal.is_some() {
        put(b"TERM", TERM.as_bytes());
    }
    for (name, value) in &request.caller_env {
        if is_let_in(&patterns, name, request.terminal.is_some()) {
            put(name, value);
        }
    }
    let runtime = format!("/run/user/{}", caller.uid);
    for (name, value) in [
        ("XDG_RUNTIME_DIR", runtime.as_str()),
        ("HOME", caller.home.as_str()),
        ("USER", caller.user.as_str()),
        ("LOGNAME", caller.user.as_str()),
        ("SHELL", caller.shell.as_str()),
        ("PWD", cwd.as_str()),
    ] {
        put(name.as_bytes(), value.as_bytes());
    }
    if egress.is_some_and(|egress| egress.announce_proxy) {
        for (name, value) in PROXY {
            put(name.as_bytes(), value.as_bytes());
        }
    }
    if request.git.iter().any(|place| place.used == Use::Top) {
        // The top of the working tree is another file system than the workspace.
        put(b"GIT_DISCOVERY_ACROSS_FILESYSTEM", b"1");
    }
    for (name, value) in &profile.environment.set {
        if is_dangerous(name.as_bytes()) {
            return Err(dangerous("environment.set", name));
        }
        put(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in &request.env {
        put(name, value);
    }
    Ok(env.into_iter().collect())
}

fn dangerous(key: &str, name: &str) -> Refusal {
    Refusal::new(
        format!("{key} {name}"),
        Rule::EnvironmentDangerous,
        "it makes programs run other code; if you mean it, give it with --env",
    )
}

/// A name, or the beginning of one.
enum Pattern<'a> {
    Name(&'a [u8]),
    Prefix(&'a [u8]),
}

impl<'a> Pattern<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let pattern = match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.as_bytes()),
            None => Self::Name(text.as_bytes()),
        };
        match pattern {
            Self::Name(name) if is_dangerous(name) => Err(dangerous("environment.allow", text)),
            Self::Name(name) | Self::Prefix(name) if name.contains(&b'*') || text.is_empty() => {
                Err(Refusal::new(
                    format!("environment.allow {text:?}"),
                    Rule::EnvironmentPattern,
                    "give a name, or the beginning of names and `*`",
                ))
            }
            pattern => Ok(pattern),
        }
    }

    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(own) => *own == name,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}
