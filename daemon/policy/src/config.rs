//! `agentd.toml`: what the site decides. Read by the launcher and by the service, each for itself.

mod bounds;
mod groups;
mod logging;
mod network;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::lease::Pool;
use crate::names::AbsPath;
use crate::quantity::{milliseconds, optional_bytes};
pub(crate) use bounds::within;
pub use bounds::{Bounds, GroupBounds};
pub use groups::BoundsError;
pub(crate) use logging::MetricsSocket;
pub use logging::{Format, Level, Log, Metrics};
pub use network::{Egress, MAX_CA_BUNDLE, Resolvers, Search, Trust};

/// Keys of 0.1.0, and what they are called now.
const RENAMED: &[(&str, &str)] = &[
    ("root_callers", "allow_root"),
    ("spares", "prewarmed_sessions"),
    ("global_also", "allow_private_ranges"),
];

/// The file is larger than any site's needs.
pub const MAX_BYTES: usize = 256 << 10;

/// The whole file. A key that is not known is an error: a typing mistake must not leave a bound unset.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The gRPC socket.
    pub socket: AbsPath,
    /// Sockets and locks; gone at boot.
    pub runtime_dir: AbsPath,
    /// Overlays, homes and the audit store.
    pub state_dir: AbsPath,
    /// Where the site's profiles are.
    pub profile_dirs: Vec<AbsPath>,
    /// Where files of secrets are.
    pub secrets_dir: AbsPath,
    /// Whether callers with uid 0 may start sessions.
    pub allow_root: bool,
    /// The account that the service runs as.
    pub service_user: String,
    /// The group that may connect.
    pub socket_group: String,
    /// The group that sees and steers everyone's sessions.
    pub admin_group: String,
    /// `"auto"`, or a directory in a cgroup2 mount.
    pub cgroup_root: CgroupRoot,
    /// How many sessions may be prepared before anybody asks for them, on the whole host; each costs some
    /// 3 MiB. Up to two wait for each user who had a session in the last five minutes.
    pub prewarmed_sessions: u32,
    /// How much a session may write to its overlays is enforced by this.
    pub disk_limits: DiskLimits,
    /// Free bytes of the file system of `state_dir` that no session may use up; absent: a GiB, or a twentieth of it
    /// if that is less.
    #[serde(deserialize_with = "optional_bytes")]
    pub disk_reserve: Option<u64>,
    /// How long a session goes on, in milliseconds, after the last client that was attached to it is gone
    /// without having detached.
    #[serde(deserialize_with = "milliseconds")]
    pub client_grace: u64,
    /// The throwaway ids.
    pub pool: PoolConfig,
    /// What no profile and no flag can exceed.
    pub bounds: Bounds,
    /// How sessions reach the network.
    pub egress: Egress,
    /// Where named secrets come from.
    pub secret: BTreeMap<String, toml::Table>,
    /// How long events are kept.
    pub audit: Audit,
    /// Numbers about the daemon, for Prometheus.
    pub metrics: Metrics,
    /// What the daemon says about itself.
    pub log: Log,
}

/// The uid range that leases come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// `FIRST-LAST`, both included; gids alike.
    pub uids: Pool,
}

/// Where the sessions' cgroups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupRoot {
    /// Found at start: below the cgroup2 mount, by the name of the runtime directory.
    Auto,
    /// This directory of a cgroup2 mount.
    Path(AbsPath),
}

/// What enforces the limits of sessions' overlays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskLimits {
    /// [`DiskLimits::Quota`], where the file system of `state_dir` enforces that; else [`DiskLimits::Watch`].
    #[default]
    Auto,
    /// Project quotas: of the file system of `state_dir`, or of an image below it.
    Quota,
    /// An image for each session, whose size is the limit.
    Image,
    /// A process for each session that looks, and ends what has grown too large.
    Watch,
}

/// How long events are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Milliseconds from the end of a session.
    #[serde(deserialize_with = "milliseconds")]
    pub retain: u64,
}

impl Default for Config {
    fn default() -> Self {
        let path = |text: &str| AbsPath::parse(text).unwrap_or_else(|_| unreachable!("a constant"));
        Self {
            socket: path("/run/agentd/agentd.sock"),
            runtime_dir: path("/run/agentd"),
            state_dir: path("/var/lib/agentd"),
            profile_dirs: vec![path("/etc/agentd/profiles.d")],
            secrets_dir: path("/etc/agentd/secrets.d"),
            allow_root: false,
            service_user: "agentd".into(),
            socket_group: "agentd".into(),
            admin_group: "agentd-admin".into(),
            cgroup_root: CgroupRoot::Auto,
            prewarmed_sessions: 4,
            disk_limits: DiskLimits::Auto,
            disk_reserve: None,
            client_grace: 10_000,
            pool: PoolConfig::default(),
            bounds: Bounds::default(),
            egress: Egress::default(),
            secret: BTreeMap::new(),
            audit: Audit::default(),
            metrics: Metrics::default(),
            log: Log::default(),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        let uids =
            Pool::parse("1900000000-1900065535").unwrap_or_else(|_| unreachable!("a constant that parses"));
        Self { uids }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { retain: 90 * 86_400_000 }
    }
}

impl Config {
    /// Reads the text of `agentd.toml`.
    ///
    /// # Errors
    /// The line, the key and the rule that it breaks, as one message.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::TooLong);
        }
        let config: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |at| {
                text.as_bytes()[..at.start.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
            });
            ConfigError::Line { line, what: what(e.message()) }
        })?;
        config.bounds.check_lists()?;
        Ok(config)
    }

    /// The socket on which the launcher takes descriptors from clients: beside the gRPC socket, where a client finds it
    /// by itself.
    pub fn offer_socket(&self) -> String {
        format!("{}/offer.sock", self.socket.as_str().rsplit_once('/').map_or("", |(dir, _)| dir))
    }

    /// The socket on which the launcher takes the service.
    pub fn service_socket(&self) -> String {
        format!("{}/service.sock", self.runtime_dir)
    }

    /// The socket on which numbers are asked for, if there is to be one.
    pub fn metrics_socket(&self) -> Option<String> {
        match &self.metrics.socket {
            None => Some(format!("{}/metrics.sock", self.runtime_dir)),
            Some(MetricsSocket::Off) => None,
            Some(MetricsSocket::Path(path)) => Some(path.to_string()),
        }
    }

    /// The group that may ask for them.
    pub fn metrics_group(&self) -> &str {
        self.metrics.group.as_ref().unwrap_or(&self.admin_group)
    }
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Longer than [`MAX_BYTES`].
    #[error("is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Malformed TOML, an unknown key or a value that the key cannot have.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// On one line.
        what: String,
    },
    /// What a plan cannot carry.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

impl<'de> Deserialize<'de> for CgroupRoot {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "auto" => Ok(Self::Auto),
            path => AbsPath::parse(path).map(Self::Path).map_err(serde::de::Error::custom),
        }
    }
}

/// What is wrong, in one line; of a key that has another name now, that.
fn what(message: &str) -> String {
    let old = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    match RENAMED.iter().find(|(was, _)| Some(*was) == old) {
        Some((was, now)) => format!("`{was}` is called `{now}` now"),
        None => message.replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_renamed_says_so() {
        for (text, now) in
            [("spares = 1", "prewarmed_sessions"), ("[egress]\nglobal_also = []", "allow_private_ranges")]
        {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("is called `{now}` now")), "{error}");
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.socket.as_str(), "/run/agentd/agentd.sock");
        assert_eq!(config.bounds, Bounds::default());
        assert_eq!(config.pool.uids.first(), 1_900_000_000);
    }

    #[test]
    fn the_documented_file_parses() {
        let text = r#"
            socket = "/run/x/agentd.sock"
            cgroup_root = "auto"
            disk_limits = "watch"
            disk_reserve = "512M"
            [pool]
            uids = "1900000000-1900065535"
            [bounds]
            max_sessions = 10
            user_memory = "16G"
            memory = "8G"
            modes_forbidden = ["direct"]
            publish = false
            [egress]
            resolvers = ["192.0.2.53:53"]
            [secret.example]
            file = "example"
            users = ["alice"]
            [audit]
            retain = "90d"
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.bounds.memory.0, 8 << 30);
        assert_eq!((config.disk_limits, config.disk_reserve), (DiskLimits::Watch, Some(512 << 20)));
        assert_eq!(config.bounds.modes_forbidden, [crate::mode::Mode::Direct]);
        assert!(!config.bounds.publish && Bounds::default().publish);
        let resolvers = Resolvers::List(vec![crate::resolver::Resolver::parse("192.0.2.53:53").unwrap()]);
        assert_eq!(config.egress.resolvers, resolvers);
    }

    #[test]
    fn metrics_have_a_socket_unless_they_are_off() {
        let of = |text: &str| {
            let config = Config::parse(text).unwrap();
            (config.metrics_socket(), config.metrics_group().to_owned())
        };
        let socket = |path: &str| Some(path.to_owned());
        let default = of("runtime_dir = '/run/x'\nadmin_group = 'wheel'");
        assert_eq!(default, (socket("/run/x/metrics.sock"), "wheel".into()));
        assert_eq!(of("[metrics]\nsocket = ''").0, None);
        let own = of("[metrics]\nsocket = '/run/y'\ngroup = 'prometheus'");
        assert_eq!(own, (socket("/run/y"), "prometheus".into()));
    }

    #[test]
    fn a_typing_mistake_is_an_error() {
        for bad in [
            "[metrics]\nsocket = 'relative'",
            "[log]\nlevel = 'loud'",
            "[log]\nformat = 'xml'",
            "[bounds]\nmax_sesions = 3",
            "socket = 'relative'",
            "[bounds]\nmemory = '8X'",
            "[bounds]\npublish = 'no'",
            "disk_limits = 'some'",
            "disk_reserve = 'much'",
            "[egress]\nresolvers = ['resolver.example']",
            "[egress]\nglobal_also = ['10.0.0.1/8']",
            "[pool]\nuids='0-9'",
        ] {
            assert!(Config::parse(bad).is_err(), "{bad}");
        }
        let said = Config::parse("[bounds]\nmax_sesions = 3").unwrap_err().to_string();
        assert!(
            said.starts_with("line 2: ") && said.contains("max_sesions") && !said.contains('\n'),
            "{said}"
        );
    }
}
