//! What a compromised keeper tries, and what must come of it in each of four situations.

use std::io;

use nix::sched::CloneFlags;
use rustix::fs::OFlags;

use crate::as_keeper::Stage;

/// What must come of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// One of these.
    Refused(&'static [i32]),
    /// It works: a keeper may do that to its own session.
    Works,
    /// It is not tried.
    Untried,
}

use Expect::{Refused, Untried, Works};

/// Something that a keeper tries.
pub struct Attempt {
    pub name: &'static str,
    /// What it does.
    pub act: fn(&Stage) -> io::Result<()>,
    /// On the host as root.
    pub root: Expect,
    /// As the keeper, but without its filter of system calls.
    pub keeper: Expect,
    /// As the keeper that has joined the user namespace that it owns, with every capability there.
    pub owner: Expect,
    /// As the keeper with its filter.
    pub filtered: Expect,
}

const ACCES: Expect = Refused(&[libc::EACCES]);
const PERM: Expect = Refused(&[libc::EPERM]);
const NOENT: Expect = Refused(&[libc::ENOENT]);
const ROFS: Expect = Refused(&[libc::EROFS]);

const fn attempt(
    name: &'static str,
    act: fn(&Stage) -> io::Result<()>,
    keeper: Expect,
    owner: Expect,
) -> Attempt {
    Attempt { name, act, root: Works, keeper, owner, filtered: PERM }
}

impl Attempt {
    const fn not_as_root(mut self) -> Self {
        self.root = Untried;
        self
    }

    const fn filtered(mut self, expect: Expect) -> Self {
        self.filtered = expect;
        self
    }
}

/// All of them. Paths that begin with `leak/` are below the host's root, as if a descriptor of it had been
/// left to the keeper, which has none; `proc/` are below the host's /proc, of which it has one.
#[rustfmt::skip]
pub const ATTEMPTS: &[Attempt] = &[
    // Namespaces of others, given as open descriptors.
    attempt("setns_session_mounts", |s| s.join("session_mnt", CloneFlags::CLONE_NEWNS), PERM, PERM),
    attempt("setns_host_mounts", |s| s.join("host_mnt", CloneFlags::CLONE_NEWNS), PERM, PERM),
    attempt("setns_host_network", |s| s.join("host_net", CloneFlags::CLONE_NEWNET), PERM, PERM),
    attempt("setns_other_mounts", |s| s.join("other_mnt", CloneFlags::CLONE_NEWNS), PERM, PERM),
    attempt("setns_other_network", |s| s.join("other_net", CloneFlags::CLONE_NEWNET), PERM, PERM),
    attempt("setns_other_users", |s| s.join("other_user", CloneFlags::CLONE_NEWUSER), PERM, PERM),
    attempt("setns_other_processes", |s| s.join("other_pid", CloneFlags::CLONE_NEWPID), PERM, PERM),
    // What it owns, it may join: no mount comes with it.
    attempt("setns_own_users", |s| s.join("session_user", CloneFlags::CLONE_NEWUSER), Works, Refused(&[libc::EINVAL])),
    attempt("setns_own_network", |s| s.join("session_net", CloneFlags::CLONE_NEWNET), PERM, Works),
    // Mounts.
    attempt("remount_writable", Stage::remount, PERM, PERM),
    attempt("remount_in_a_copy", Stage::remount_in_a_copy, PERM, PERM),
    attempt("mount_tmpfs", Stage::mount_tmpfs, PERM, PERM),
    attempt("clone_session_mounts", Stage::clone_tree, PERM, PERM),
    attempt("mknod", Stage::mknod, Refused(&[libc::EPERM, libc::EROFS]), Refused(&[libc::EPERM, libc::EROFS])).not_as_root(),
    attempt("create_at_root", |s| s.create("/agentd-test-keeper"), ROFS, ROFS).not_as_root().filtered(Refused(&[libc::EPERM, libc::EROFS])),
    // The caller's workspace and the system, through the session's own mounts.
    attempt("create_in_workspace", |s| s.create("proc/{agent}/cwd/new"), Refused(&[libc::EACCES, libc::EOVERFLOW]), Refused(&[libc::EOVERFLOW])),
    attempt("write_workspace_file", |s| s.open("proc/{agent}/cwd/file", OFlags::WRONLY), ACCES, Works),
    attempt("setuid_of_the_caller", |s| s.chmod("proc/{agent}/cwd/file", 0o4755), PERM, Works),
    attempt("setuid_of_root", Stage::give_to_root, PERM, Refused(&[libc::EOVERFLOW, libc::EINVAL, libc::EPERM])),
    attempt("write_system_through_session", |s| s.open("proc/{agent}/root/usr/bin/env", OFlags::WRONLY), Refused(&[libc::EACCES, libc::EROFS]), ROFS).not_as_root(),
    attempt("create_in_session_etc", |s| s.create("proc/{agent}/root/etc/new"), Refused(&[libc::EACCES, libc::EROFS]), ROFS).not_as_root(),
    // The host's files, by name and as if a descriptor had been left.
    attempt("shadow_by_name", |s| s.open("/etc/shadow", OFlags::RDONLY), NOENT, NOENT),
    attempt("home_by_name", |s| s.open("{workspace}/file", OFlags::RDONLY), NOENT, NOENT),
    attempt("shadow", |s| s.open("leak/etc/shadow", OFlags::RDONLY), ACCES, ACCES),
    attempt("write_passwd", |s| s.open("leak/etc/passwd", OFlags::WRONLY), ACCES, ACCES),
    attempt("write_program", |s| s.open("leak/usr/bin/true", OFlags::WRONLY), ACCES, ACCES),
    attempt("create_program", |s| s.create("leak/usr/bin/agentd-test-keeper"), ACCES, ACCES),
    attempt("chmod_program", |s| s.chmod("leak/{victim}", 0o4755), PERM, PERM),
    attempt("callers_home", |s| s.open("leak/{workspace}/file", OFlags::WRONLY), ACCES, ACCES),
    attempt("leases", |s| s.open("leak/{runtime}/leases", OFlags::RDONLY), ACCES, ACCES),
    attempt("overlays", |s| s.open("leak/{state}/overlays", OFlags::RDONLY), ACCES, ACCES),
    attempt("audit", |s| s.open("leak/{state}/audit", OFlags::RDONLY), ACCES, ACCES),
    attempt("service_socket", |s| s.connect("leak/{runtime}/service.sock"), ACCES, ACCES),
    // Processes of others.
    attempt("proc_init_root", |s| s.open("proc/1/root", OFlags::RDONLY), ACCES, ACCES).not_as_root(),
    attempt("proc_init_environ", |s| s.open("proc/1/environ", OFlags::RDONLY), ACCES, ACCES).not_as_root(),
    attempt("proc_launcher_root", |s| s.open("proc/{launcher}/root", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_launcher_mem", |s| s.open("proc/{launcher}/mem", OFlags::RDWR), ACCES, ACCES),
    attempt("proc_launcher_fds", |s| s.open("proc/{launcher}/fd", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_service_fds", |s| s.open("proc/{service}/fd", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_caller_root", |s| s.open("proc/{caller}/root", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_other_agent_root", |s| s.open("proc/{other_agent}/root", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_other_agent_mem", |s| s.open("proc/{other_agent}/mem", OFlags::RDWR), ACCES, ACCES),
    attempt("proc_other_keeper_fds", |s| s.open("proc/{other_keeper}/fd", OFlags::RDONLY), ACCES, ACCES),
    attempt("proc_core_pattern", |s| s.open("proc/sys/kernel/core_pattern", OFlags::WRONLY), ACCES, ACCES),
    attempt("proc_drop_caches", |s| s.open("proc/sys/vm/drop_caches", OFlags::WRONLY), ACCES, ACCES),
    attempt("kill_launcher", |s| s.kill("launcher"), PERM, PERM),
    attempt("kill_service", |s| s.kill("service"), PERM, PERM),
    attempt("kill_caller", |s| s.kill("caller"), PERM, PERM),
    attempt("kill_other_agent", |s| s.kill("other_agent"), PERM, PERM),
    attempt("kill_other_keeper", |s| s.kill("other_keeper"), PERM, PERM),
    attempt("kill_other_relay", |s| s.kill("other_relay"), PERM, PERM),
    attempt("ptrace_launcher", |s| s.seize("launcher"), PERM, PERM),
    attempt("ptrace_caller", |s| s.seize("caller"), PERM, PERM),
    attempt("ptrace_other_agent", |s| s.seize("other_agent"), PERM, PERM),
    attempt("ptrace_other_keeper", |s| s.seize("other_keeper"), PERM, PERM),
    attempt("read_launcher", |s| s.read_memory("launcher"), PERM, PERM),
    attempt("read_caller", |s| s.read_memory("caller"), PERM, PERM),
    attempt("read_other_agent", |s| s.read_memory("other_agent"), PERM, PERM),
    attempt("read_other_keeper", |s| s.read_memory("other_keeper"), PERM, PERM),
    attempt("take_descriptor_of_launcher", |s| s.take_descriptor("launcher"), PERM, PERM),
    attempt("take_descriptor_of_other_keeper", |s| s.take_descriptor("other_keeper"), PERM, PERM),
    // Cgroups of another session, as if a descriptor had been left.
    attempt("other_cgroup_kill", |s| s.open_at("other_cgroup", "cgroup.kill", OFlags::WRONLY), ACCES, ACCES),
    attempt("other_cgroup_procs", |s| s.open_at("other_cgroup", "cgroup.procs", OFlags::WRONLY), ACCES, ACCES),
    attempt("other_cgroup_freeze", |s| s.open_at("other_cgroup", "cgroup.freeze", OFlags::WRONLY), ACCES, ACCES),
    attempt("own_cgroup_procs", |s| s.open_at("cgroup", "cgroup.procs", OFlags::WRONLY), ACCES, ACCES),
    attempt("own_cgroup_child", |s| s.make_group("cgroup"), ACCES, ACCES),
    // The host's network.
    attempt("nft_host", Stage::nft, PERM, PERM),
    attempt("raw_socket_host", Stage::raw_socket, PERM, PERM),
    // In its own namespace, 0 is its own number.
    attempt("become_root", Stage::become_root, PERM, Works),
    // What it may do, because the session is its own.
    // Its relay has another uid, and is ended by the pipe that it holds.
    attempt("kill_own_relay", |s| s.kill("relay"), PERM, PERM),
    attempt("kill_own_agent", |s| s.kill("agent"), Works, Works).filtered(Works),
    attempt("read_own_agent", |s| s.read_memory("agent"), Works, Works).filtered(Works),
];
