//! What a daemon that runs takes from a changed `agentd.toml`, and what only the next one does.

use crate::config::{Audit, Bounds, Config, Egress, Log, Metrics, PoolConfig};

/// The keys that differ and were used for what a daemon makes once: its sockets, directories, accounts and cgroups.
/// A file that changes one of them is not taken at all.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // Every key by name: a new one has to be put on one side or the other.
    let Config {
        socket,
        runtime_dir,
        state_dir,
        service_user,
        socket_group,
        admin_group,
        cgroup_root,
        pool: PoolConfig { uids },
        profile_dirs: _,
        secrets_dir: _,
        allow_root: _,
        prewarmed_sessions: _,
        disk_limits,
        disk_reserve: _,
        client_grace: _,
        bounds: Bounds { .. },
        egress: Egress { .. },
        secret: _,
        audit: Audit { .. },
        metrics: Metrics { socket: metrics_socket, group: metrics_group },
        log: Log { level: _, format },
    } = new;
    [
        ("socket", *socket != old.socket),
        ("runtime_dir", *runtime_dir != old.runtime_dir),
        ("state_dir", *state_dir != old.state_dir),
        ("service_user", *service_user != old.service_user),
        ("socket_group", *socket_group != old.socket_group),
        ("admin_group", *admin_group != old.admin_group),
        ("cgroup_root", *cgroup_root != old.cgroup_root),
        ("disk_limits", *disk_limits != old.disk_limits),
        ("pool.uids", *uids != old.pool.uids),
        ("metrics.socket", *metrics_socket != old.metrics.socket),
        ("metrics.group", *metrics_group != old.metrics.group),
        ("log.format", *format != old.log.format),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_to_start_needs_a_restart_and_nothing_else_does() {
        let old = Config::parse("").unwrap();
        let keys = |text: &str| needs_restart(&old, &Config::parse(text).unwrap());
        for free in [
            "",
            "prewarmed_sessions = 0\nclient_grace = '1s'\nallow_root = true\nprofile_dirs = []",
            "[bounds]\nmax_sessions = 1\nuser_memory = '1G'",
            "[audit]\nretain = '1d'\n[secret.x]\nfile = 'x'\n[egress]\nallow_private_ranges = ['10.0.0.0/8']\nblocklists = ['/x/ads.hosts']",
            "[log]\nlevel = 'debug'",
        ] {
            assert!(keys(free).is_empty(), "{free}");
        }
        assert_eq!(keys("socket = '/run/x'\nruntime_dir = '/run/y'"), ["socket", "runtime_dir"]);
        assert_eq!(keys("state_dir = '/x'\nservice_user = 'x'"), ["state_dir", "service_user"]);
        assert_eq!(keys("socket_group = 'x'\nadmin_group = 'x'"), ["socket_group", "admin_group"]);
        assert_eq!(keys("cgroup_root = '/x'\n[pool]\nuids = '100000-200000'"), ["cgroup_root", "pool.uids"]);
        assert_eq!(keys("[metrics]\nsocket = ''\ngroup = 'x'"), ["metrics.socket", "metrics.group"]);
        assert_eq!(keys("[log]\nformat = 'json'"), ["log.format"]);
    }
}
