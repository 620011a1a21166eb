//! What of file systems sessions can have.

use std::collections::BTreeMap;

use agentd_policy::wire::{Check, Status};
use serde::{Deserialize, Serialize};

use super::{lack, verdict};
use crate::doctor::apart::Tried;

/// What was tried.
pub struct Facts {
    /// An id-mapped mount of a tmpfs.
    pub tmpfs: Tried<()>,
    pub places: Vec<Place>,
    /// An overlay of id-mapped layers that was written to.
    pub overlay: Tried<()>,
}

/// A directory that sessions have files in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    pub path: String,
    /// Its file system.
    pub kind: String,
    /// Whether it can be id-mapped.
    pub mapped: Tried<()>,
}

/// Every file system that sessions meet. `state` is `state_dir`.
pub fn checks(facts: &Tried<Facts>, state: &str) -> Vec<Check> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            let impact = "no session runs: its files could not be given to a throwaway id";
            return vec![lack("idmap", Status::Missing, error, impact, "see the check namespaces")];
        }
    };
    let mut kinds: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    for place in &facts.places {
        kinds.entry(&place.kind).or_default().push(place);
    }
    let mut checks = Vec::new();
    if !kinds.contains_key("tmpfs") {
        let tried = facts.tmpfs.as_ref().map(|()| "for directories on a tmpfs");
        let impact = "workspaces on a tmpfs, such as many a /tmp, are refused";
        checks.push(verdict("idmap.tmpfs", tried, Status::Reduced, impact, "use Linux 6.3 or later"));
    }
    for (kind, places) in kinds {
        let paths: Vec<_> = places.iter().map(|place| place.path.as_str()).collect();
        let tried = places.iter().try_for_each(|place| place.mapped.as_ref().copied());
        let (without, impact) = if paths.contains(&state) {
            (Status::Missing, "no session runs with a copy-on-write workspace, which is the default")
        } else {
            (Status::Reduced, "workspaces and inputs there are refused")
        };
        let found = tried.map(|()| paths.join(" "));
        let fix = "use ext4, xfs, btrfs or (from Linux 6.3) tmpfs for these directories";
        checks.push(verdict(format!("idmap.{kind}"), found, without, impact, fix));
    }
    let found = "id-mapped layers, directories can be renamed; what is written is the caller's";
    checks.push(verdict(
        "overlayfs",
        facts.overlay.as_ref().map(|()| found),
        Status::Missing,
        "no session runs with a copy-on-write workspace, which is the default",
        "use a kernel of Linux 5.19 or later with CONFIG_OVERLAY_FS, and a state_dir on ext4, xfs or btrfs; \
         modprobe overlay",
    ));
    checks
}
