//! What a session sees of `/sys`: its own control group and the host's CPUs, read-only, at the paths where programs
//! look for limits. Nothing else of it is there.

use std::os::fd::{AsFd, BorrowedFd};

use agentd_kernel::cgroup::Group;
use agentd_kernel::mount::{self, Tree};
use agentd_policy::step::Step;

use super::fault::{At, Fault};
use super::root::{READ_ONLY, Root};
use super::view::{self, Over};
use crate::cpus::{CPUS, Cpus};
use crate::init::Access;

/// Where programs expect control groups.
const GROUPS: &str = "/sys/fs/cgroup";
/// Lists of devices: a session has none.
const EMPTY: [&str; 3] = ["/sys/block", "/sys/class", "/sys/dev/block"];

/// Copies of the mounts, taken in the host's mount namespace.
#[derive(Debug)]
pub struct Sysfs<'a> {
    /// Each with the controllers of its hierarchy; cgroup2's without any is the first.
    groups: Vec<(&'a [&'static str], Tree)>,
    cpus: Option<Tree>,
    covered: bool,
}

impl<'a> Sysfs<'a> {
    /// Copies them. Every process of the session is in `agents` when its cgroup namespace is made: for them that is the
    /// root of each hierarchy.
    pub fn take(agents: &'a Group, cpus: Cpus) -> Result<Self, Fault> {
        let copy = |(names, dir): (_, BorrowedFd<'_>)| Ok((names, Tree::copy_of(dir).at(Step::Sys, GROUPS)?));
        let groups = agents.visible().into_iter().map(copy).collect::<Result<_, Fault>>()?;
        let take = || {
            let place = mount::place(CPUS).at(Step::Sys, CPUS)?;
            Tree::copy_of(place.as_fd()).at(Step::Sys, CPUS)
        };
        let cpus_tree = (cpus != Cpus::Missing).then(take).transpose()?;
        Ok(Self { groups, cpus: cpus_tree, covered: cpus == Cpus::Covered })
    }

    /// Places all of it in `root`.
    pub fn place(self, root: &mut Root) -> Result<(), Fault> {
        for path in EMPTY {
            root.directory(path)?;
        }
        self.place_groups(root)?;
        if let Some(tree) = self.cpus {
            tree.restrict(READ_ONLY, None).at(Step::Sys, CPUS)?;
            // Otherwise who reads these files on the host could be watched, and locks on them would be the host's.
            let tree = match self.covered {
                true => tree,
                false => match view::over(root, &tree, CPUS)? {
                    Over::View(view) => view,
                    Over::Refused(error, _) => return Err(Fault::host(Step::Sys, CPUS, error)),
                },
            };
            root.cover(CPUS, &tree, true)?;
        }
        root.access.push(("/sys".to_owned(), Access::Read));
        Ok(())
    }

    /// cgroup2 where systemd mounts it: alone if it limits everything, else beside the v1 hierarchies that do.
    fn place_groups(&self, root: &Root) -> Result<(), Fault> {
        let alone = self.groups.len() == 1;
        for (names, tree) in &self.groups {
            tree.restrict(READ_ONLY, None).at(Step::Sys, GROUPS)?;
            let path = match names {
                [] if alone => GROUPS.to_owned(),
                [] => format!("{GROUPS}/unified"),
                names => format!("{GROUPS}/{}", names.join(",")),
            };
            root.cover(&path, tree, true)?;
            if names.len() > 1 {
                for name in *names {
                    root.link(&format!("{GROUPS}/{name}"), names.join(","))?;
                }
            }
        }
        Ok(())
    }
}
