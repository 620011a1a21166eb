//! Where a session's standard streams come from: a terminal of its own devpts, or three pipes.

use agentd_kernel::mount::{Attributes, Tree};
use agentd_policy::plan::WindowSize;
use agentd_policy::step::Step;
use rustix::fs::{Mode, OFlags};

use super::fault::{At, Fault};
use crate::stdio::{Streams, of_pipes, of_terminal};

/// A devpts of the session's own, for `most` terminals. They belong to the agent.
pub fn terminals(agent: u32, most: u32) -> Result<Tree, Fault> {
    let (agent, most) = (agent.to_string(), most.to_string());
    let options = [
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("max", most.as_str()),
        ("uid", agent.as_str()),
        ("gid", agent.as_str()),
    ];
    let attributes = Attributes { read_only: false, no_exec: true, devices: true, no_symlinks: false };
    Tree::new("devpts", &options, attributes).at(Step::Terminal, "/dev/pts")
}

/// A terminal of this size, of the session's devpts.
pub fn terminal(terminals: &Tree, window: WindowSize) -> Result<Streams, Fault> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(terminals, "ptmx", flags, Mode::empty()).at(Step::Terminal, "ptmx")?;
    of_terminal(master, window).at(Step::Terminal, "pts")
}

/// Three pipes that belong to the agent.
pub fn pipes(agent: u32) -> Result<Streams, Fault> {
    of_pipes(Some(agent)).at(Step::Stdio, "pipe")
}
