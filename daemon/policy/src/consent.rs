//! What a client agreed to, as digests that it hands to the launcher itself.
//!
//! The service makes the [`Plan`] of a session, and the client makes the same plan by the same rules before it opens
//! anything. The digests of the client's go to the launcher beside the descriptors, on a connection that the service
//! has no part in. A plan that differs in any of its parts is refused, so that a compromised service, or one of another
//! version, changes nothing of what was asked for: no path, mode, mask, command, variable, network name or limit.

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::digest::Digest;
use crate::egress::Egress;
use crate::plan::Plan;
use crate::rule::Rule;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The longest version that an offer may name, in bytes.
pub const MAX_VERSION: usize = 32;

/// A part of a plan that is compared by itself, so that a refusal can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The profile after `extends` has been followed.
    Profile,
    /// argv, directory, terminal.
    Command,
    /// Every variable, and the account that the session shows.
    Environment,
    /// Workspaces with their modes and names, inputs, scratch directories, the home; what is deleted in the end.
    Files,
    /// What may be reached, and what is published; not who resolves names and where they are looked for,
    /// which the site says.
    Network,
    /// What may be used up.
    Limits,
}

impl Part {
    /// All of them, in the order of [`Consent`]'s digests.
    pub const ALL: [Self; 6] =
        [Self::Profile, Self::Command, Self::Environment, Self::Files, Self::Network, Self::Limits];

    /// The rule that a plan breaks which differs in this part.
    fn rule(self) -> Rule {
        match self {
            Self::Profile => Rule::ConsentProfile,
            Self::Command => Rule::ConsentCommand,
            Self::Environment => Rule::ConsentEnvironment,
            Self::Files => Rule::ConsentFiles,
            Self::Network => Rule::ConsentNetwork,
            Self::Limits => Rule::ConsentLimits,
        }
    }

    /// What the daemon asked for that the client did not.
    fn noun(self) -> &'static str {
        match self {
            Self::Profile => "another profile",
            Self::Command => "another command",
            Self::Environment => "another environment",
            Self::Files => "other files",
            Self::Network => "another network",
            Self::Limits => "other limits",
        }
    }
}

/// What a client agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The client's version.
    version: String,
    /// In the order of [`Part::ALL`].
    parts: [Digest; Part::ALL.len()],
}

impl Consent {
    /// To `plan`, by a client of this version. Neither the session's id nor who resolves its names is part of it.
    ///
    /// # Errors
    /// If the plan cannot be digested.
    pub fn to(plan: &Plan) -> Result<Self, Refusal> {
        // Each by its name: what is added to a plan is agreed to, or left out on purpose.
        let Plan {
            session: _,
            profile,
            user,
            home,
            shell,
            command,
            env,
            cwd,
            terminal,
            workspaces,
            inputs,
            scratch,
            home_size,
            limits,
            landlock_abi,
            remove,
            umask,
            egress,
        } = plan;
        let network = egress.as_ref().map(|egress| Egress {
            resolvers: Vec::new(),
            search: Vec::new(),
            allow_private_ranges: Vec::new(),
            proxy: None,
            ..egress.clone()
        });
        Ok(Self {
            version: VERSION.to_owned(),
            parts: [
                *profile,
                Digest::of(&(command, cwd, terminal, umask))?,
                Digest::of(&(env, user, shell))?,
                Digest::of(&(workspaces, inputs, scratch, home, home_size, remove))?,
                Digest::of(&network)?,
                Digest::of(&(limits, landlock_abi))?,
            ],
        })
    }

    /// Whether the version is one that may be shown.
    pub fn is_well_formed(&self) -> bool {
        self.version.len() <= MAX_VERSION && self.version.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// Checks the plan that a service wants to be built.
    ///
    /// # Errors
    /// The first part that differs, with both versions.
    pub fn check(&self, plan: &Plan) -> Result<(), Refusal> {
        let planned = Self::to(plan)?;
        let differs = |part: &&Part| self.parts[**part as usize] != planned.parts[**part as usize];
        let Some(part) = Part::ALL.iter().find(differs) else { return Ok(()) };
        let client = &self.version;
        let hint = if *client == planned.version {
            "nothing was started; look at the log of agentd, and report it"
        } else {
            "install agentctl and agentd of one version"
        };
        Err(Refusal::new(
            format!(
                "the daemon asked for {} than this agentctl did (agentctl {client}, agentd {VERSION})",
                part.noun()
            ),
            part.rule(),
            hint,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;
    use crate::mount::Input;
    use crate::names::{AbsPath, RelPath, SessionId};
    use crate::plan::WindowSize;
    use crate::plan::tests::plan;
    use crate::resolver::Resolver;

    #[test]
    fn each_part_of_a_plan_is_agreed_to() {
        type Change = fn(&mut Plan);
        let changes: &[(&str, Change)] = &[
            ("consent.profile", |p| p.profile = Digest::of(&1).unwrap()),
            ("consent.command", |p| p.command.push(b"x".to_vec())),
            ("consent.command", |p| p.cwd = AbsPath::parse("/").unwrap()),
            ("consent.command", |p| p.terminal = Some(WindowSize { rows: 1, cols: 1 })),
            ("consent.environment", |p| p.env.clear()),
            ("consent.environment", |p| p.shell = AbsPath::parse("/bin/sh").unwrap()),
            ("consent.files", |p| p.workspaces[0].mode = Mode::Direct),
            ("consent.files", |p| p.workspaces[0].descriptor = 1),
            ("consent.files", |p| p.workspaces[0].mask = vec![RelPath::parse("a").unwrap()]),
            ("consent.files", |p| p.workspaces[0].sockets = vec![RelPath::parse("a").unwrap()]),
            ("consent.files", |p| {
                p.inputs = vec![Input { path: AbsPath::parse("/srv").unwrap(), link: None, descriptor: 1 }];
            }),
            ("consent.files", |p| p.home = AbsPath::parse("/home/b").unwrap()),
            ("consent.files", |p| p.remove = true),
            ("consent.network", |p| p.egress = Some(Egress::default())),
            ("consent.limits", |p| p.limits.memory += 1),
            ("consent.limits", |p| p.landlock_abi = 1),
        ];
        let consent = Consent::to(&plan()).unwrap();
        assert!(consent.is_well_formed());
        for (rule, change) in changes {
            let mut changed = plan();
            change(&mut changed);
            let refusal = consent.check(&changed).unwrap_err();
            assert_eq!(refusal.rule.name(), *rule);
            assert!(refusal.what.starts_with("the daemon asked for "), "{refusal}");
        }
    }

    #[test]
    fn the_id_and_the_resolvers_are_the_daemons() {
        let with = |resolvers| Plan { egress: Some(Egress { resolvers, ..Egress::default() }), ..plan() };
        let consent = Consent::to(&with(vec![])).unwrap();
        let session = SessionId::parse("ba9876543210").unwrap();
        let resolvers = vec![Resolver::parse("192.0.2.53").unwrap()];
        assert_eq!(consent.check(&Plan { session, ..with(resolvers) }), Ok(()));
    }

    #[test]
    fn a_mismatch_names_both_versions() {
        let consent = Consent { version: "9.9.9".into(), ..Consent::to(&plan()).unwrap() };
        let other = Plan { profile: Digest::of(&1).unwrap(), ..plan() };
        let refusal = consent.check(&other).unwrap_err();
        assert!(refusal.what.contains("agentctl 9.9.9") && refusal.what.contains(VERSION), "{refusal}");
        assert!(refusal.hint.contains("of one version"), "{refusal}");
        for version in ["x".repeat(33), "a\nb".into(), "ü".into()] {
            assert!(!Consent { version, ..Consent::to(&plan()).unwrap() }.is_well_formed());
        }
    }
}
