//! From what a caller asks for to what it gets: pure, so that the same question has the same answer.

use crate::config::Bounds;
use crate::digest::Digest;
use crate::git::{Place, Use};
use crate::mode::{Mode, Role};
use crate::mount::{Input, MAX_SCRATCH, Scratch, Workspace};
use crate::names::AbsPath;
use crate::network::Upstream;
use crate::plan::{Permitted, Plan};
use crate::profile::Profile;
use crate::request::{CallerFacts, Here, Request, Wanted};
use crate::rule::Rule;
use crate::{Refusal, environment, overlap, places, workspaces};

/// That a session may be: the only way to a plan that somebody may build.
#[derive(Clone, Debug)]
#[must_use]
pub struct Permit {
    plan: Permitted,
    wanted: Vec<Wanted>,
}

impl Permit {
    /// The session as it was decided.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the caller has to open, in the order of the plan's descriptors.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The session, to be built.
    pub fn into_plan(self) -> Permitted {
        self.plan
    }
}

/// Of a scratch directory, where a profile names no size.
const SCRATCH: u64 = 512 << 20;
/// What any profile requires.
const LANDLOCK_ABI: u32 = 2;

/// What becomes of `request` under `profile`, within `bounds`, for `caller`; what it asks for by name is asked of
/// `upstream`.
///
/// # Errors
/// The first rule that it breaks; nothing that was asked for is left out in silence.
pub fn decide(
    request: &Request,
    profile: &Profile,
    bounds: &Bounds,
    upstream: &Upstream,
    caller: &CallerFacts,
) -> Result<Permit, Refusal> {
    if caller.uid == 0 && !caller.allow_root {
        return Err(Refusal::new(
            "a session for root",
            Rule::CallerRoot,
            "ask as an ordinary user, or set `allow_root = true` in agentd.toml",
        ));
    }
    enforceable(profile)?;
    let here = Here { cwd: &request.cwd, home: &caller.home };
    let mut workspaces = workspaces::of(request, profile, &here)?;
    let mut inputs = inputs(request, profile, &here, workspaces.len())?;
    let wanted = wanted(&workspaces, &inputs);
    let cwd = settle(request, &wanted, &mut workspaces, &mut inputs)?;
    let scratch = scratch(request, profile, &here, (&workspaces, &inputs))?;
    for workspace in &workspaces {
        places::not_the_home(&workspace.path, &caller.home)?;
        places::not_run_by_itself(workspace, &caller.home)?;
    }
    workspaces::protect_profiles(&request.profile_files, &mut workspaces)?;
    workspaces::guard(&request.git, &mut workspaces)?;
    overlap::check(&mut workspaces, &inputs, &scratch, &caller.home)?;
    let cwd = cwd_inside(cwd, &workspaces, &inputs, &scratch, &caller.home);
    let limits = bounds.limits(&profile.limits.overlaid(&request.limits));
    let mut egress = profile.network.egress(&request.network, &request.publish, upstream)?;
    egress.deny(bounds.ceiling().denied_names());
    let plan = Plan {
        session: request.session.clone(),
        profile: Digest::of(&profile.to_toml()?)?,
        user: caller.user.clone(),
        home: caller.home.clone(),
        shell: caller.shell.clone(),
        command: request.command.clone(),
        env: environment::of(request, profile, caller, &cwd, Some(&egress))?,
        cwd,
        terminal: request.terminal,
        workspaces,
        inputs,
        scratch,
        home_size: (limits.memory / 2).clamp(1 << 12, MAX_SCRATCH),
        limits,
        landlock_abi: profile.require.landlock_abi.map_or(LANDLOCK_ABI, |abi| abi.max(LANDLOCK_ABI)),
        remove: request.remove,
        umask: request.umask & 0o777,
        egress: Some(egress),
    };
    Ok(Permit { plan: plan.permit(bounds)?, wanted })
}

fn enforceable(profile: &Profile) -> Result<(), Refusal> {
    match profile.unenforced().first() {
        Some(key) => Err(Refusal::new(
            format!("`{key}` of profile {}", profile.name.as_ref().map_or("(unnamed)", |n| n.as_str())),
            Rule::ProfileUnenforced,
            "this version cannot enforce it yet; leave it out of the profile",
        )),
        None => Ok(()),
    }
}

fn inputs(
    request: &Request,
    profile: &Profile,
    here: &Here<'_>,
    before: usize,
) -> Result<Vec<Input>, Refusal> {
    let mut paths = Vec::new();
    for text in &profile.filesystem.read {
        paths.push(here.path("filesystem.read", text)?);
    }
    let of_git = request.git.iter().filter(|place| place.used == Use::Read).map(|place| &place.path);
    for path in request.read.iter().chain(of_git) {
        if !paths.contains(path) {
            paths.push(path.clone());
        }
    }
    paths
        .into_iter()
        .enumerate()
        .map(|(i, path)| match u16::try_from(before + i) {
            Ok(descriptor) => Ok(Input { path, link: None, descriptor }),
            Err(_) => Err(Refusal::new("more than 65535 paths", Rule::PlanMounts, "name fewer")),
        })
        .collect()
}

fn wanted(workspaces: &[Workspace], inputs: &[Input]) -> Vec<Wanted> {
    let workspaces =
        workspaces.iter().map(|w| Wanted { role: Role::Workspace, mode: w.mode, path: w.path.clone() });
    let inputs = inputs.iter().map(|i| Wanted { role: Role::Input, mode: Mode::Ro, path: i.path.clone() });
    workspaces.chain(inputs).collect()
}

/// Puts what the caller really opened in the place of what it was asked to open (symbolic links were
/// followed), and gives back its directory, moved along.
fn settle(
    request: &Request,
    wanted: &[Wanted],
    workspaces: &mut [Workspace],
    inputs: &mut [Input],
) -> Result<AbsPath, Refusal> {
    let mut cwd = request.cwd.clone();
    let Some(offered) = &request.offered else { return Ok(cwd) };
    let alike = offered.len() == wanted.len()
        && offered.iter().zip(wanted).all(|(o, w)| o.role == w.role && o.mode == w.mode);
    if !alike {
        return Err(Refusal::new(
            format!("{} offered paths where {} were asked for", offered.len(), wanted.len()),
            Rule::RequestPaths,
            "offer the workspaces and then the inputs that the request asks for, in its order",
        ));
    }
    for (input, offered) in inputs.iter_mut().zip(offered.iter().skip(workspaces.len())) {
        input.link = Some(input.path.clone()).filter(|asked| *asked != offered.path);
    }
    let places = workspaces.iter_mut().map(|w| &mut w.path).chain(inputs.iter_mut().map(|i| &mut i.path));
    for (place, offered) in places.zip(offered) {
        if let Some(moved) = cwd
            .below(place)
            .and_then(|rest| rest.map_or(Some(offered.path.clone()), |r| offered.path.join(&r).ok()))
        {
            cwd = moved;
        }
        *place = offered.path.clone();
    }
    Ok(cwd)
}

/// Those of the profile, and the tops of working trees that nothing else shows.
fn scratch(
    request: &Request,
    profile: &Profile,
    here: &Here<'_>,
    (workspaces, inputs): (&[Workspace], &[Input]),
) -> Result<Vec<Scratch>, Refusal> {
    let entries = profile.filesystem.scratch.iter();
    let mut all = entries
        .map(|entry| {
            Ok(Scratch {
                path: here.path("filesystem.scratch.path", &entry.path)?,
                size: entry.size.map_or(SCRATCH, |size| size.0),
                exec: entry.exec != Some(false),
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    for Place { path, used } in &request.git {
        let shown = inputs.iter().map(|i| &i.path).chain(workspaces.iter().map(|w| &w.path));
        let there =
            shown.into_iter().any(|place| path.starts_with(place)) || all.iter().any(|s| s.path == *path);
        if *used == Use::Top && !there {
            all.push(Scratch { path: path.clone(), size: SCRATCH, exec: true });
        }
    }
    Ok(all)
}

/// Where the command starts: the caller's directory if the session has it, or else the first workspace.
fn cwd_inside(
    cwd: AbsPath,
    workspaces: &[Workspace],
    inputs: &[Input],
    scratch: &[Scratch],
    home: &AbsPath,
) -> AbsPath {
    let mut real = workspaces.iter().map(|w| &w.path).chain(inputs.iter().map(|i| &i.path));
    let mut empty = scratch.iter().map(|s| &s.path).chain([home]);
    if real.any(|path| cwd.starts_with(path)) || empty.any(|path| cwd == *path) {
        return cwd;
    }
    workspaces.first().map_or_else(|| home.clone(), |w| w.path.clone())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
