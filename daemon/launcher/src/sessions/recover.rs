//! What an earlier launcher left: sessions that go on are adopted, everything else of it is ended and removed.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::time::Instant;

use agentd_kernel::cgroup::Group;
use agentd_kernel::nsfs::Handle;
use agentd_kernel::process::Child;
use agentd_kernel::procfs;
use agentd_policy::lease::Groups;
use agentd_session::Owner;
use rustix::process::{Pid, PidfdFlags};

use super::groups::{KINDS, path};
use super::lease::{Found, Record};
use super::{Keeper, Session, Sessions, State};
use crate::context::Context;
use crate::directories::{is_held, names};
use agentd_session::error::HostError;

impl Sessions {
    /// Looks at every lease, group and socket. How many sessions were adopted. What can be neither adopted nor ended
    /// is logged, and keeps its lease.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn recover(&mut self, cx: &Context) -> Result<usize, HostError> {
        log_left(self.remove_foreign_groups());
        let groups = self.groups_left()?;
        let before = names(&cx.directories.keepers)?;
        let mut adopted = BTreeSet::new();
        for name in names(&cx.directories.leases)? {
            let Some(number) = name.parse().ok().filter(|n: &u32| n.to_string() == name) else { continue };
            let has_groups = groups.iter().any(|(_, lease)| *lease == number);
            match self.recover_lease(cx, number, has_groups) {
                Ok(session) => adopted.extend(session),
                Err(error) => {
                    tracing::error!(lease = number, %error, "what is left under a lease cannot be adopted")
                }
            }
        }
        for (uid, number) in groups {
            log_left(self.end_groups(uid, number));
        }
        for name in before {
            if !adopted.contains(&name) {
                log_left(cx.directories.remove_keeper_socket(&name));
            }
        }
        self.take_up_deletions(cx);
        // They may be others than they were.
        self.limit_all(cx, Instant::now());
        Ok(adopted.len())
    }

    /// One lease: the session that goes on under it.
    fn recover_lease(
        &mut self,
        cx: &Context,
        number: u32,
        has_groups: bool,
    ) -> Result<Option<String>, HostError> {
        let Some(file) = cx.directories.lease_file(number)? else { return Ok(None) };
        let held = is_held(&file)?;
        match Record::read(&file) {
            Found::Record(record) if record.buried && !has_groups && !held => {
                self.rest(cx, number, record.users());
            }
            Found::Record(record) => {
                let keeper = if held && record.ran { self.keeper(cx, number, &record) } else { None };
                let session = keeper.as_ref().map(|_| record.session.to_string());
                self.take_up(number, *record, keeper)?;
                return Ok(session);
            }
            Found::Foreign(foreign) => {
                let reason = foreign.reason();
                tracing::error!(lease = number, session = %foreign.session, error = reason, "a session is ended");
                // Before anything of it ends: the service looks there for the reason.
                log_left(cx.directories.write_format(&foreign.session, foreign.version));
                self.take_up(number, foreign.record(), None)?;
            }
            // Prepared, or put on record by halves: its groups say the rest.
            Found::Nothing if has_groups => {}
            Found::Nothing if held => {
                return Err(HostError::unfit("it is held, and nothing else is known of it"));
            }
            // It may have been torn.
            Found::Nothing => self.rest(cx, number, None),
        }
        Ok(None)
    }

    /// Groups of another layout than ours are an earlier program's.
    fn remove_foreign_groups(&self) -> Result<(), HostError> {
        for name in self.hierarchies.names("")? {
            if !KINDS.contains(&name.as_str()) {
                self.hierarchies.clear_below(&name)?;
                self.hierarchies.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Users and leases that have a group.
    fn groups_left(&mut self) -> Result<BTreeSet<(u32, u32)>, HostError> {
        let mut left = BTreeSet::new();
        for kind in KINDS {
            for user in self.hierarchies.names(kind)? {
                let path = format!("{kind}/{user}");
                let uid = user.strip_prefix('u').and_then(|uid| uid.parse().ok());
                for lease in self.hierarchies.names(&path)? {
                    if let (Some(uid), Ok(lease)) = (uid, lease.parse()) {
                        left.insert((uid, lease));
                    }
                }
                // An empty one goes once nothing is charged to it; the others with their last session.
                if self.hierarchies.names(&path).is_ok_and(|names| names.is_empty()) {
                    match uid.filter(|_| kind == "agents") {
                        Some(uid) => drop(self.held.insert(uid, Instant::now())),
                        None => self.hierarchies.remove(&path)?,
                    }
                }
            }
        }
        Ok(left)
    }

    /// The keeper that a record names, if it is that: in the helpers' group of the lease, under the lease's uid.
    fn keeper(&self, cx: &Context, number: u32, record: &Record) -> Option<Keeper> {
        let lease = cx.settings.config.pool.uids.lease(number)?;
        let pid = Pid::from_raw(record.keeper)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let helpers = self.hierarchies.ensure(&path("helpers", record.owner.uid, number)).ok()?;
        let member = helpers.processes().ok()?.contains(&pid);
        let uid = procfs::uid(cx.host.proc.as_fd(), record.keeper).ok()?;
        let keeper = Keeper { process: Child { pid, pidfd }, ours: false };
        // What was read is about the process that the pidfd is for only as long as that lives.
        (member && uid == lease.keeper.get() && !keeper.has_ended()).then_some(keeper)
    }

    /// Takes a session up where its record says that it is: it runs, or what is left of it is to go.
    fn take_up(&mut self, number: u32, record: Record, keeper: Option<Keeper>) -> Result<(), HostError> {
        let (agents, helpers) = self.existing(record.owner.uid, number)?;
        let cpus = agents.cpus()?;
        let runs = keeper.is_some();
        let state = if runs { State::Running } else { State::emptying(None) };
        let mut session = Session {
            placeholders: record.placeholders(),
            id: Some(record.session),
            keeper,
            uppers: record.uppers,
            remove: record.remove,
            ran: record.ran,
            terminals: record.terminals,
            users: record.users.map(|(kind, bytes)| Handle { kind, bytes }),
            places: record.places,
            cpus,
            ..Session::of_groups(record.owner, agents, helpers, state)
        };
        if !runs {
            session.kill_all();
        }
        self.insert(number, session);
        if runs {
            self.unwatched.push(number);
        }
        Ok(())
    }

    /// Ends what is in groups that no record explains.
    fn end_groups(&mut self, uid: u32, number: u32) -> Result<(), HostError> {
        match self.all.get(&number) {
            Some(known) if known.owner.uid == uid => return Ok(()),
            Some(_) => {
                // The lease is another user's by now.
                for kind in KINDS {
                    let path = path(kind, uid, number);
                    self.hierarchies.clear_below(&path)?;
                    self.hierarchies.remove(&path)?;
                }
                self.leave_user(uid);
            }
            None => {
                let (agents, helpers) = self.existing(uid, number)?;
                let owner = Owner { uid, gid: uid, groups: Groups::default() };
                let mut session = Session::of_groups(owner, agents, helpers, State::emptying(None));
                session.kill_all();
                self.insert(number, session);
            }
        }
        Ok(())
    }

    fn existing(&self, uid: u32, number: u32) -> Result<(Group, Group), HostError> {
        let group = |kind| self.hierarchies.ensure(&path(kind, uid, number));
        Ok((group("agents")?, group("helpers")?))
    }
}

fn log_left(result: Result<(), HostError>) {
    if let Err(error) = result {
        tracing::error!(%error, "something that an earlier launcher left stays");
    }
}
