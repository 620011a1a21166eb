//! What enforces the limits of overlays, how it can be better, and what is free.

use agentd_policy::limits::DiskForm;
use agentd_policy::wire::{Check, Status};

use super::{fine, lack};
use crate::context::Context;
use crate::disk;

/// What holds here.
pub fn checks(cx: &Context) -> Vec<Check> {
    let form = match cx.disk.form {
        DiskForm::Quota => fine("disk.limits", cx.disk.to_string()),
        DiskForm::Image => {
            fine("disk.limits", "image: what exceeds a session's limit is refused by the kernel")
        }
        DiskForm::Watch => lack(
            "disk.limits",
            Status::Reduced,
            "watch: a session that exceeds its limit is ended",
            "what is written between two looks (a tenth of a second where there is little room) goes beyond the limit",
            "set disk_limits = \"image\" in agentd.toml, which takes the room of each session from the disk at its start",
        ),
    };
    let space = match disk::free(&cx.directories.state, cx.settings.config.disk_reserve) {
        Ok(found) => fine("disk.reserve", found),
        Err(found) => lack(
            "disk.reserve",
            Status::Reduced,
            found,
            "no session starts with a copy-on-write workspace, which is the default",
            "delete sessions that have ended (agentctl rm), or make room on the disk of state_dir",
        ),
    };
    vec![form, space]
}
