//! The daemon's own metrics and log.

use serde::{Deserialize, Deserializer};

use crate::names::AbsPath;

/// Numbers about the daemon, for Prometheus.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Absent: in the runtime directory.
    pub(crate) socket: Option<MetricsSocket>,
    /// Absent: the admin group.
    pub(crate) group: Option<String>,
}

/// Where numbers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetricsSocket {
    Off,
    Path(AbsPath),
}

/// What the daemon says about itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least that is said.
    pub level: Level,
    /// In which form.
    pub format: Format,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Somebody has to do something.
    Error,
    /// Something was lost, or refused that nobody should have asked for.
    Warn,
    /// What sessions and daemon go through.
    #[default]
    Info,
    /// What explains the rest.
    Debug,
    /// All lines, the least important as well.
    Trace,
}

impl Level {
    /// The name as `log.level` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The journal's own where there is a journal, else text.
    #[default]
    Auto,
    /// Lines of text, for people.
    Text,
    /// One object a line.
    Json,
}

impl<'de> Deserialize<'de> for MetricsSocket {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "" => Ok(Self::Off),
            path => AbsPath::parse(path).map(Self::Path).map_err(serde::de::Error::custom),
        }
    }
}
