//! What one session may use up, and what enforces it.

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::config::Bounds;
use crate::mount::{MAX_SCRATCH, Scratch};
use crate::rule::Rule;
use crate::size::{format_size, readable_duration};

/// The fewest files that an overlay may hold: those that it is made of are among them.
pub const MIN_INODES: u64 = 64;
/// Open files that a process may ask for.
pub const MAX_OPEN_FILES: u64 = 1 << 20;
/// The least share of a CPU.
const MIN_CPUS: f64 = 0.01;

/// What enforces the limit of a session's overlays on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskForm {
    /// A project of its own in a file system with quotas: what is too much is refused.
    Quota,
    /// A file system of its own in an image of the limit's size: what is too much is refused.
    Image,
    /// A process that looks: who has too much is ended.
    Watch,
}

impl DiskForm {
    /// The word that `disk_limits` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Image => "image",
            Self::Watch => "watch",
        }
    }
}

/// What a session may use up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, page cache and scratch included; swap is off.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPUs' worth of time.
    pub cpus: f64,
    /// Bytes of overlay, in files with and without a name.
    pub disk: u64,
    /// Files, directories and links of overlay.
    pub inodes: u64,
    /// Milliseconds from the start to the end.
    pub timeout_ms: u64,
    /// Milliseconds without a byte on any of its streams and without a new program; 0 for no such limit.
    pub idle_ms: u64,
    /// Open files a process.
    pub open_files: u64,
}

impl Limits {
    /// Checks them, with the sizes of the home and the scratch directories, against the site's bounds.
    pub(crate) fn check(&self, bounds: &Bounds, home_size: u64, scratch: &[Scratch]) -> Result<(), Refusal> {
        let (size, time, count): (Unit, Unit, Unit) = (format_size, readable_duration, |n| n.to_string());
        within(Rule::BoundsMemory, size, self.memory, 1 << 20, bounds.memory)?;
        within(Rule::BoundsPids, count, self.pids, 1, bounds.pids)?;
        within(Rule::BoundsDisk, size, self.disk, 0, bounds.disk)?;
        within(Rule::BoundsInodes, count, self.inodes, MIN_INODES, bounds.inodes)?;
        within(Rule::BoundsTimeout, time, self.timeout_ms, 1, bounds.timeout)?;
        within(Rule::BoundsIdle, time, self.idle_ms, 0, bounds.timeout)?;
        within(Rule::BoundsOpenFiles, count, self.open_files, 16, MAX_OPEN_FILES)?;
        within(Rule::BoundsHomeSize, size, home_size, 1 << 12, MAX_SCRATCH)?;
        for scratch in scratch {
            within(Rule::BoundsScratchSize, size, scratch.size, 1 << 12, MAX_SCRATCH)?;
        }
        if !(self.cpus >= MIN_CPUS && self.cpus <= bounds.cpus) {
            let [value, least, most] = [self.cpus, MIN_CPUS, bounds.cpus].map(|cpus| cpus.to_string());
            return Err(out_of_bounds(Rule::BoundsCpus, &value, self.cpus > bounds.cpus, &least, &most));
        }
        Ok(())
    }
}

/// How a number is written for people.
type Unit = fn(u64) -> String;

fn within(rule: Rule, unit: Unit, value: u64, least: u64, most: u64) -> Result<(), Refusal> {
    match value < least || value > most {
        false => Ok(()),
        true => Err(out_of_bounds(rule, &unit(value), value > most, &unit(least), &unit(most))),
    }
}

/// A value that is too large, or too small, with what sets it.
fn out_of_bounds(rule: Rule, value: &str, large: bool, least: &str, most: &str) -> Refusal {
    let what = match rule {
        Rule::BoundsHomeSize => "home size",
        Rule::BoundsScratchSize => "scratch size",
        rule => rule.name().trim_start_matches("bounds."),
    };
    let compared = match large {
        true => format!("more than this host allows ({most})"),
        false => format!("less than a session can do with ({least})"),
    };
    let set_by = match what {
        "memory" | "cpus" | "pids" | "disk" | "timeout" | "idle" => {
            format!(": --{what}, or `{what}` in the profile's [limits]")
        }
        "inodes" => ": `inodes` in the profile's [limits]".to_owned(),
        _ => String::new(),
    };
    Refusal::new(format!("{what} {value} is {compared}"), rule, format!("ask for {least} to {most}{set_by}"))
}
