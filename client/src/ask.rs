//! What is asked for, decided here by the rules that the daemon has too: the client is the authority on what it opens.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use agentd_kernel::account::Account;
use agentd_policy::Refusal;
use agentd_policy::config::Resolvers;
use agentd_policy::consent::Consent;
use agentd_policy::decide::decide;
use agentd_policy::environment::let_in;
use agentd_policy::mode::Mode;
use agentd_policy::names::SessionId;
use agentd_policy::network::Upstream;
use agentd_policy::offer::Site;
use agentd_policy::plan::{Permitted, Plan};
use agentd_policy::profile::Profile;
use agentd_policy::request::{CallerFacts, Request, Wanted};
use agentd_policy::resolver::Resolver;
use agentd_policy::rule::Rule;
use agentd_proto::v1::{CreateRequest, RunSpec};
use prost::bytes::Bytes;

use crate::failure::Failure;
use crate::gitdirs::{self, Found};
use crate::offer;
use crate::profile;
use crate::side::{Begun, Held, Side};
use crate::spec::{Asked, bounded, bytes};

/// The system's resolvers, where the site names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As much of that file as is read.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// A question to one daemon, decided as far as it can be before anything is opened.
pub struct Question {
    side: Side,
    spec: RunSpec,
    request: Request,
    profile: Profile,
    upstream: Upstream,
    caller: CallerFacts,
    wanted: Vec<Wanted>,
    plan: Permitted,
    git: Found,
}

impl Question {
    /// Decides what `asked` comes to at the daemon that `side` is of.
    ///
    /// # Errors
    /// The first rule that it breaks. Nothing was opened then.
    pub fn new(side: Begun, asked: Asked) -> Result<Self, Failure> {
        let side = side.receive_site()?;
        let site = &side.site;
        let uid = rustix::process::geteuid().as_raw();
        // Before anything of root's is read.
        may_ask(uid, site)?;
        let Account { user, home, shell } = Account::of(uid)?;
        let caller = CallerFacts { uid, user, home, shell, allow_root: site.allow_root };
        let profile = profile::resolve(asked.profile.as_deref(), site)?;
        let profile_places = profile::places(asked.profile.as_deref())?;
        let mut spec = RunSpec { profile_places, ..spec(asked, &profile)? };
        let upstream = upstream(site);
        let decide = |request: &Request| decide(request, &profile, &site.bounds, &upstream, &caller);
        let mut request = agentd_request::parse(spec.clone(), unnamed()?)?;
        let mut permit = decide(&request)?;
        let mut git = gitdirs::find(permit.plan(), &site.bounds)?;
        if !git.is_empty() {
            request.git = git.places();
            permit = decide(&request).or_else(|refusal| {
                // What nobody asked for by name is no reason to refuse what somebody did.
                git.forgo(&refusal);
                request.git = git.places();
                decide(&request)
            })?;
            spec.git = request.git.iter().map(agentd_request::git_place).collect();
        }
        let wanted = permit.wanted().to_vec();
        let plan = permit.into_plan();
        no_programs(&plan, &spec)?;
        Ok(Self { side, spec, request, profile, upstream, caller, wanted, plan, git })
    }

    /// What its workspaces need of repositories.
    pub fn git(&self) -> &Found {
        &self.git
    }

    /// The session that it would be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Has the daemon keep the session once it has ended, though it is to be removed: the client looks at it first.
    ///
    /// # Errors
    /// None that the question as it was did not have.
    pub fn keep(&mut self) -> Result<(), Failure> {
        (self.spec.remove, self.request.remove) = (false, false);
        let Self { request, profile, side, upstream, caller, .. } = self;
        self.plan = decide(request, profile, &side.site.bounds, upstream, caller)?.into_plan();
        Ok(())
    }

    /// Whether what it changes in a workspace goes to an overlay.
    pub fn has_overlay(&self) -> bool {
        self.plan.workspaces.iter().any(|workspace| workspace.mode == Mode::Overlay)
    }

    /// Opens what is wanted, agrees to the session that it makes, and hands both to the launcher: what to ask the
    /// service for, and what has to be held until it has answered.
    ///
    /// # Errors
    /// What cannot be opened, or is refused under the name that it really has.
    pub fn offer(self) -> Result<(CreateRequest, Held), Failure> {
        let Self { side, spec, mut request, profile, upstream, caller, wanted, mut plan, mut git } = self;
        let (opened, named) = offer::open_all(&wanted, &mut git)?;
        let paths = named.iter().map(agentd_request::offered_path).collect();
        // Symbolic links were followed: it is decided again by where they led.
        if named != wanted {
            request.offered = Some(named);
            plan = decide(&request, &profile, &side.site.bounds, &upstream, &caller)?.into_plan();
        }
        let held = side.offer(Consent::to(&plan)?, &opened)?;
        let ticket = Bytes::copy_from_slice(&held.ticket.0);
        Ok((CreateRequest { spec: Some(spec), ticket, paths }, held))
    }
}

/// Root's files are opened for nobody unless the site lets root start sessions.
fn may_ask(uid: u32, site: &Site) -> Result<(), Refusal> {
    match uid == 0 && !site.allow_root {
        false => Ok(()),
        true => Err(Refusal::new(
            "a session for root",
            Rule::CallerRoot,
            "ask as an ordinary user, or set `allow_root = true` in agentd.toml",
        )),
    }
}

/// Where the caller's shell looks for programs, nothing is written in mode direct: not in such a directory, nor, beside
/// the workspace that was asked for, in one that holds it.
fn no_programs(plan: &Plan, spec: &RunSpec) -> Result<(), Refusal> {
    // Without the variable shells look in the system's directories, which are nobody's to write to.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| real(&dir)).collect();
    for workspace in plan.workspaces.iter().filter(|workspace| workspace.mode == Mode::Direct) {
        let place = workspace.path.as_str();
        let besides = place != spec.cwd && spec.workspace.iter().all(|given| given.path != place);
        let holds = |dir: &&PathBuf| Path::new(place).starts_with(dir) || besides && dir.starts_with(place);
        if let Some(dir) = dirs.iter().find(holds) {
            return Err(Refusal::new(
                format!("{place} to write to, in mode direct: {} is in your PATH", dir.display()),
                Rule::WorkspacePath,
                "use mode overlay, or name a directory that no program is run from",
            ));
        }
    }
    Ok(())
}

/// Where `path` leads, as far as it exists: a directory that is still missing can be made.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent().zip(path.file_name())) {
        (Ok(real), _) => real,
        (Err(_), Some((parent, name))) => real(parent).join(name),
        (Err(_), None) => path.to_owned(),
    }
}

/// What leaves this process: of the environment only what the profile lets in.
fn spec(asked: Asked, profile: &Profile) -> Result<RunSpec, Refusal> {
    let mut spec = asked.spec;
    spec.profile = profile.to_toml()?;
    let vars = asked.environment.into_iter().map(|(key, value)| (bytes(key), bytes(value)));
    let mut kept = Vec::new();
    for (key, value) in vars {
        if let_in(profile, &key, spec.terminal)? {
            kept.push((key, value));
        }
    }
    spec.caller_env = bounded(kept);
    Ok(spec)
}

/// The daemon gives the session its id; none of what is agreed to depends on it.
fn unnamed() -> Result<SessionId, Refusal> {
    SessionId::parse("000000000000").map_err(|error| error.refusal(Rule::SessionId))
}

/// What the site gives to sessions with a network, as far as a decision needs it.
fn upstream(site: &Site) -> Upstream {
    let resolvers = site.resolvers.clone().unwrap_or_else(system_resolvers);
    // Who looks for names in which domains is the daemon's to know: nobody agrees to it.
    Upstream {
        resolvers,
        search: Vec::new(),
        allow_private_ranges: site.allow_private_ranges.clone(),
        proxy: site.proxy,
    }
}

/// Those of this host. The daemon has its own; without any it refuses names.
fn system_resolvers() -> Vec<Resolver> {
    let mut text = String::new();
    let read = File::open(RESOLV_CONF).and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    Resolvers::of_system(&text).0
}
