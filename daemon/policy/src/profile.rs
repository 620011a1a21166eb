//! Profiles: what a session of a kind may touch. The format, whole, whether or not this version can enforce
//! each part of it (see [`Profile::unenforced`]), and how a child is laid over its parents.

pub mod filesystem;
pub mod http;
mod merge;
pub mod network;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::limits::Asked;
use crate::names::ProfileName;
use crate::quantity::Span;
use crate::rule::Rule;
use filesystem::{Filesystem, Home, WorkspaceMode};
use http::{Credential, Http};
use merge::table;
use network::{Network, NetworkDefault};

/// The longest text of a profile, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most entries of one list, after parents and child were put together.
pub const MAX_LIST: usize = 1024;
/// The longest text of one entry, in bytes.
pub const MAX_TEXT: usize = 4096;

/// The version of the format; there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Schema;

/// A version of the format that this one does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema {0} is not known; this version reads 1")]
pub struct UnknownSchema(u64);

impl TryFrom<u64> for Schema {
    type Error = UnknownSchema;
    fn try_from(number: u64) -> Result<Self, UnknownSchema> {
        (number == 1).then_some(Self).ok_or(UnknownSchema(number))
    }
}

impl From<Schema> for u64 {
    fn from(_: Schema) -> u64 {
        1
    }
}

table! {
    /// A profile as written, or after its parents were merged into it.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Profile {
        /// The format's version.
        pub schema: Schema,
        /// Its own name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<ProfileName>,
        /// Its parents, the later over the earlier.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub extends: Vec<ProfileName>,
        /// What its programs see of the file system.
        #[serde(default)]
        pub filesystem: Filesystem,
        /// Where its programs may connect to.
        #[serde(default)]
        pub network: Network,
        /// Which HTTP requests pass.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub http: Vec<Http>,
        /// Secrets that are put into requests on the way.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub credential: Vec<Credential>,
        /// Which variables its programs get.
        #[serde(default)]
        pub environment: Environment,
        /// Which programs may run.
        #[serde(default)]
        pub process: Process,
        /// What its programs may send to the terminal.
        #[serde(default)]
        pub terminal: Terminal,
        /// What the host must offer.
        #[serde(default)]
        pub require: Require,
        /// What a session may use up.
        #[serde(default)]
        pub limits: Asked,
        /// How people are asked.
        #[serde(default)]
        pub approval: Approval,
    }
}

table! {
    /// `[environment]`: variables of the command.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Environment {
        /// Names of the caller's variables that come along; `*` at the end stands for any rest.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub allow: Vec<String>,
        /// Variables with values.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub set: BTreeMap<String, String>,
    }
}

table! {
    /// `[process]`: programs that may run.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Process {
        /// Programs that may run; none: all that can be read.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub exec: Vec<String>,
    }
}

table! {
    /// `[terminal]`: what reaches the caller's terminal.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Terminal {
        /// Whether sequences that reach beyond the terminal are left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub filter: Option<bool>,
    }
}

table! {
    /// `[require]`: what the host must offer.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Require {
        /// The least Landlock ABI.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub landlock_abi: Option<u32>,
    }
}

table! {
    /// `[approval]`: how people are asked.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Approval {
        /// How long an answer may take before it is no.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub timeout: Option<Span>,
    }
}

impl Profile {
    /// Reads the text of a profile. `label` names it in messages.
    ///
    /// # Errors
    /// The line, the key and the rule that it breaks.
    pub fn parse(label: &str, text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_BYTES {
            return Err(Refusal::new(
                format!("profile {label} of {} bytes", text.len()),
                Rule::ProfileSize,
                format!("a profile has at most {MAX_BYTES} bytes"),
            ));
        }
        let profile: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |at| {
                text.as_bytes()[..at.start.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
            });
            Refusal::new(
                format!("profile {label}, line {line}: {}", e.message()),
                Rule::ProfileForm,
                "fix the line; `agentctl profile check FILE` says whether it is right",
            )
        })?;
        profile.check(label)?;
        let network = &profile.network;
        network.change().and_then(|_| network.parsed_dns_types()).map_err(|refusal| {
            Refusal::new(format!("profile {label}: {}", refusal.what), refusal.rule, refusal.hint)
        })?;
        Ok(profile)
    }

    /// The profile as TOML.
    ///
    /// # Errors
    /// If it holds what TOML cannot say, such as a number beyond 2^63.
    pub fn to_toml(&self) -> Result<String, Refusal> {
        toml::to_string(self).map_err(|e| {
            Refusal::new(format!("the profile as TOML: {e}"), Rule::ProfileForm, "fix the value")
        })
    }

    /// Bounds of every list and text.
    pub(crate) fn check(&self, label: &str) -> Result<(), Refusal> {
        let files = &self.filesystem;
        let mut lists = vec![
            ("extends", self.extends.len()),
            ("filesystem.workspace", files.workspace.len()),
            ("filesystem.scratch", files.scratch.len()),
            ("network.allow", self.network.allow.len()),
            ("network.publish", self.network.publish.len()),
            ("http", self.http.len()),
            ("credential", self.credential.len()),
            ("environment.set", self.environment.set.len()),
        ];
        for (key, texts) in self.text_lists() {
            lists.push((key, texts.len()));
            if let Some(long) = texts.iter().find(|t| t.len() > MAX_TEXT) {
                return Err(Refusal::new(
                    format!("profile {label}: {key} has an entry of {} bytes", long.len()),
                    Rule::ProfileSize,
                    format!("an entry has at most {MAX_TEXT} bytes"),
                ));
            }
        }
        match lists.iter().find(|(_, len)| *len > MAX_LIST) {
            Some((key, len)) => Err(Refusal::new(
                format!("profile {label}: {key} has {len} entries"),
                Rule::ProfileSize,
                format!("a list has at most {MAX_LIST} entries"),
            )),
            None => Ok(()),
        }
    }

    fn text_lists(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        let fixed = [
            ("filesystem.read", &self.filesystem.read),
            ("filesystem.write", &self.filesystem.write),
            ("network.deny", &self.network.deny),
            ("network.dns_types", &self.network.dns_types),
            ("environment.allow", &self.environment.allow),
            ("process.exec", &self.process.exec),
        ];
        let workspaces = self.filesystem.workspace.iter().flat_map(|w| {
            [
                ("filesystem.workspace.mask", &w.mask),
                ("filesystem.workspace.protect", &w.protect),
                ("filesystem.workspace.sockets", &w.sockets),
            ]
        });
        let http = self.http.iter().flat_map(|h| [("http.methods", &h.methods), ("http.paths", &h.paths)]);
        fixed.into_iter().chain(workspaces).chain(http)
    }

    /// The keys of this profile that this version reads but cannot enforce. A session with any is refused.
    pub fn unenforced(&self) -> Vec<&'static str> {
        let worktree = self.filesystem.workspace.iter().any(|w| w.mode == Some(WorkspaceMode::Worktree));
        [
            (self.filesystem.home == Some(Home::Kept), "filesystem.home = \"kept\""),
            (worktree, "filesystem.workspace.mode = \"worktree\""),
            (self.network.default == Some(NetworkDefault::Ask), "network.default = \"ask\""),
            (!self.http.is_empty(), "http"),
            (!self.credential.is_empty(), "credential"),
            (!self.process.exec.is_empty(), "process.exec"),
            (self.terminal.filter.is_some(), "terminal.filter"),
        ]
        .into_iter()
        .filter_map(|(there, key)| there.then_some(key))
        .collect()
    }
}

#[cfg(test)]
#[path = "profile_tests.rs"]
pub(crate) mod tests;
