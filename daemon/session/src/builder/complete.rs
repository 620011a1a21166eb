//! What one request asks for: the caller's directories, scratch, the terminal, the relay; then init
//! confines itself.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount;
use agentd_kernel::nsfs::Handle;
use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::event::Finding;
use agentd_policy::limits::DiskForm;
use agentd_policy::mode::Mode as WorkspaceMode;
use agentd_policy::plan::{Permitted, Plan};
use agentd_policy::step::Step;
use agentd_policy::wire::encode;

use super::covers;
use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use super::hand_over::Ready;
use super::inside::Configurations;
use super::prepare::Prepared;
use super::root::Root;
use super::steps::Steps;
use super::workspace::Placer;
use super::{Builder, Received, etc, paths, streams, watch};
use crate::init::ToInit;
use crate::keeper::{Copied, Keeper, Leftovers};
use crate::meter::{Meter, Reserve, Usage};
use crate::scout::Scout;

/// What came of placing the callers' paths.
struct Placed {
    /// Names that were covered in directories that are given as they are.
    covered: Vec<String>,
    /// What searches those again in the end.
    scouts: Vec<Scout>,
    /// Copies of what is in them, which those look at as well.
    copied: Vec<Copied>,
    /// What is to be reported of them already.
    found: Vec<(String, Finding)>,
    /// Names that stand for missing ones.
    stand_ins: Vec<String>,
}

impl Builder<'_> {
    /// Makes a prepared session one request's, up to where it is confined.
    pub(super) fn complete(&self, prepared: Prepared, order: Received) -> Result<Ready, Fault> {
        let Received {
            plan,
            ceiling,
            began,
            listener,
            service_uid,
            offered,
            uppers,
            disk,
            reserve,
            blocklist,
            trust,
            credential,
        } = order;
        let Prepared {
            mut root,
            session_root,
            host_root,
            init,
            to_init,
            users,
            writable,
            etc,
            terminals,
            network,
            inside,
            relay,
        } = prepared;
        let proc = self.host.proc.as_fd();
        let mut steps = Steps::since(began, Step::COMPLETE);
        steps.done(Step::Order)?;
        // From here on it is no builder that is asked to end but a session.
        let signals = crate::keeper::signals().at(Step::Keeper, "signals")?;
        // A descriptor's mount can be copied only in the namespace that it belongs to.
        mount::enter_namespace(host_root.as_fd()).at(Step::Paths, "host namespace")?;
        let form = disk.form;
        let uppers = uppers.map(|uppers| self.uppers(uppers, &plan, disk)).transpose()?;
        let sources = paths::take(&plan, offered, uppers.as_ref(), proc)?;
        mount::enter_namespace(session_root.as_fd()).at(Step::Paths, "session's namespace")?;
        steps.done(Step::Paths)?;
        let (inside, mut relay, outside) = match plan.terminal {
            None => (inside, Some(relay), None),
            Some(window) => {
                // One of pipes was started, as for most; this session wants another.
                relay.end()?;
                let streams = streams::terminal(&terminals, window)?;
                (streams.inside, None, Some(streams.outside))
            }
        };
        steps.done(Step::Streams)?;
        etc.add(&root, self.host.etc.copy(), (&plan, &sources))?;
        let placeholders = paths::Placeholders(&self.launcher);
        let Placed { covered, scouts, copied, found, stand_ins } =
            self.place_paths(&plan, &mut root, &sources, (writable.as_fd(), users.as_fd()), placeholders)?;
        etc.write(&plan, self.owner)?;
        let home = root.directory(plan.home.as_str())?;
        if knows_git(&plan) {
            etc::write_ignored(home.as_fd(), self.lease.agent.get(), &plan, &stand_ins)?;
        }
        root.seal()?;
        steps.done(Step::Workspace)?;
        let execs = watch::every_mount(proc, self.lease.keeper.get())?;
        steps.done(Step::ExecWatch)?;
        // A mount goes with the name that it covers, if that is replaced or removed from outside.
        let mounts = (!covered.is_empty()).then(|| watch::mounts(proc)).transpose()?;
        let agent = FsIds::assume(self.lease.agent.get());
        covers::verify_covered(&covered)?;
        drop(agent);
        go(&to_init, &plan, std::mem::take(&mut root.access), &inside)?;
        steps.done(Step::Go)?;
        // Init confines itself from here on.
        if let Some(outside) = outside {
            mount::enter_namespace(host_root.as_fd()).at(Step::Relay, "host namespace")?;
            relay = Some(self.start_relay(&outside)?);
        }
        let relay = relay.ok_or_else(|| Fault::unfit(Step::Relay, "relay", "none was started"))?;
        steps.done(Step::Relay)?;
        let disk = uppers.map(|uppers| self.meter(uppers.into(), &plan, (form, reserve))).transpose()?;
        steps.done(Step::Meter)?;

        let (service, keeper_end) = Packets::pair().at(Step::Keeper, "socket")?;
        let keeper = Keeper::new(crate::keeper::Parts {
            plan: &plan,
            ceiling,
            owner: self.owner.uid,
            lease: self.lease,
            lock: self.lock.try_clone().at(Step::Keeper, "lease")?,
            proc: self.host.proc.try_clone().at(Step::Keeper, "/proc")?,
            watch: self.agents.watch().at(Step::Keeper, "cgroup")?,
            service: keeper_end,
            listener,
            service_uid,
            init,
            to_init,
            relay: relay.child,
            control: relay.control,
            execs,
            mounts,
            disk,
            scratches: std::mem::take(&mut root.scratches),
            leftovers: Leftovers::new(scouts, copied, found),
            network,
            blocklist,
            trust,
            credential,
            signals,
            root: session_root,
        })
        .at(Step::Keeper, "set-up")?;
        steps.done(Step::Keeper)?;
        let users = Handle::of(users.as_fd()).at(Step::Keeper, "user namespace")?;
        Ok(Ready { keeper, steps, service, relay: relay.service, users })
    }

    /// Home, scratch, inputs and workspaces, from the outermost path inwards.
    fn place_paths(
        &self,
        plan: &Plan,
        root: &mut Root,
        sources: &paths::Sources,
        (writable, owners): (BorrowedFd<'_>, BorrowedFd<'_>),
        placeholders: paths::Placeholders<'_>,
    ) -> Result<Placed, Fault> {
        enum Item<'a> {
            Scratch(u64, bool),
            Workspace(&'a agentd_policy::mount::Workspace, &'a paths::Source),
            Input(&'a paths::Source),
        }
        let agent = self.lease.agent.get();
        root.place_shared_memory(plan.limits.memory / 2, agent)?;
        let mut items = vec![(&plan.home, Item::Scratch(plan.home_size, true))];
        items.extend(plan.scratch.iter().map(|s| (&s.path, Item::Scratch(s.size, s.exec))));
        items.extend(sources.workspaces.iter().map(|(w, s)| (&w.path, Item::Workspace(w, s))));
        items.extend(sources.inputs.iter().map(|s| (&s.path, Item::Input(s))));
        items.sort_by_key(|(path, _)| path.components().count());
        let mut placer = Placer {
            root,
            writable,
            owners,
            owner: self.owner,
            lease: &self.lease,
            covered: Vec::new(),
            placeholders,
            host: self.host,
            helpers: self.helpers.directory(),
            token: self.token,
            scouts: Vec::new(),
            found: Vec::new(),
            made: Vec::new(),
            held: BTreeSet::new(),
            copies: None,
            configurations: Configurations::default(),
            stand_ins: Vec::new(),
        };
        for (path, item) in items {
            match item {
                Item::Scratch(size, exec) => placer.root.place_scratch(path, size, exec, agent)?,
                Item::Workspace(workspace, source) => placer.workspace(workspace, source)?,
                Item::Input(source) => placer.input(source)?,
            }
        }
        let Placer { covered, scouts, found, stand_ins, copies, .. } = placer;
        let copied = copies.map(|copies| copies.all).unwrap_or_default();
        for input in &plan.inputs {
            if let Some(link) = &input.link {
                root.link(link.as_str(), input.path.as_str())?;
            }
        }
        Ok(Placed { covered, scouts, copied, found, stand_ins })
    }

    /// Starts what looks at the size of the session's overlays.
    fn meter(
        &self,
        uppers: OwnedFd,
        plan: &Plan,
        (form, reserve): (DiskForm, Reserve),
    ) -> Result<(Child, OwnedFd), Fault> {
        let meter = Meter {
            form,
            uppers,
            limit: Usage { bytes: plan.limits.disk, inodes: plan.limits.inodes },
            reserve,
            freezer: self.agents.freezer().at(Step::Disk, "cgroup")?,
            proc: self.host.proc.as_fd(),
            cgroup: self.helpers.directory(),
            empty_root: self.host.empty_root.as_fd(),
            filter: &self.host.meter_filter,
            token: self.token,
        };
        meter.start().at(Step::Disk, "meter")
    }
}

/// Whether git may meet placeholders or masks: a listing of an overlay shows no placeholder as a file.
fn knows_git(plan: &Plan) -> bool {
    plan.workspaces.iter().any(|w| {
        let git = || mount::place(&format!("{}/.git", w.path)).is_ok();
        w.mode == WorkspaceMode::Direct || git()
    })
}

/// Tells init that its root is complete.
fn go(
    to_init: &Packets,
    plan: &Permitted,
    access: Vec<(String, crate::init::Access)>,
    streams: &crate::command::Stdio,
) -> Result<(), Fault> {
    let message = encode(&ToInit::Go { plan: Box::new(plan.clone()), access }).at(Step::Init, "message")?;
    to_init.send(&message, &streams.descriptors()).at(Step::Init, "message")
}
