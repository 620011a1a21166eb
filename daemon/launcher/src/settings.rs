//! What the launcher knows before it listens: the configuration, read once from a file that only root can
//! write, and the accounts that it names.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentd_policy::config::{self, Config};
use agentd_policy::wire::Peer;

use agentd_session::error::{HostError, On as _};

/// The configuration with its names resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file's content.
    pub config: Config,
    /// Where it was, for the service.
    pub file: PathBuf,
    /// The service's account.
    pub service_uid: u32,
    pub service_gid: u32,
    /// Who may connect.
    pub socket_gid: u32,
    /// Who sees everyone's sessions.
    pub admin_gid: u32,
    /// Who may ask for numbers.
    pub metrics_gid: u32,
    /// Those with bounds of their own.
    pub groups: Vec<BoundGroup>,
}

/// A group with bounds of its own.
#[derive(Clone, Debug)]
pub struct BoundGroup {
    name: String,
    gid: u32,
    /// Whom the account database lists: a process may have dropped the group.
    members: Vec<u32>,
}

/// The most members of a group with bounds of its own.
const MAX_MEMBERS: usize = 16_384;

impl BoundGroup {
    fn find(name: &str) -> Result<Self, HostError> {
        let key = format!("[bounds.group.{name}]");
        let group = nix::unistd::Group::from_name(name)
            .on(&key)?
            .ok_or_else(|| HostError::unfit(format!("no group {name}")).on(&key))?;
        if group.mem.len() > MAX_MEMBERS {
            let why = format!("{} members, of which {MAX_MEMBERS} are taken", group.mem.len());
            return Err(HostError::unfit(why).on(key));
        }
        let mut members = Vec::with_capacity(group.mem.len());
        for member in &group.mem {
            let user = nix::unistd::User::from_name(member).on(format_args!("{key}: {member}"))?;
            members.extend(user.map(|user| user.uid.as_raw()));
        }
        Ok(Self { name: name.to_owned(), gid: group.gid.as_raw(), members })
    }
}

impl Settings {
    /// Reads `file`, which must belong to root and be writable by nobody else: a user who can write it decides
    /// what root does.
    pub fn read(file: &Path) -> Result<Self, HostError> {
        let unfit = |why: String| HostError::unfit(why).on(file.display());
        let meta = std::fs::metadata(file).on(file.display())?;
        if !meta.is_file() || meta.len() > config::MAX_BYTES as u64 {
            return Err(unfit("is not a regular file of at most 256 KiB".into()));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            let why = "must belong to root and be writable by nobody else (chown root, chmod 644)";
            return Err(unfit(why.into()));
        }
        let text = std::fs::read_to_string(file).on(file.display())?;
        let config = Config::parse(&text).map_err(|e| unfit(e.to_string()))?;
        let user = nix::unistd::User::from_name(&config.service_user)
            .on(file.display())?
            .ok_or_else(|| unfit(format!("service_user: no account {}", config.service_user)))?;
        if user.uid.is_root() {
            return Err(unfit("service_user: the service never runs as root".into()));
        }
        let group = |key: &str, name: &str| {
            nix::unistd::Group::from_name(name)
                .on(file.display())?
                .map(|g| g.gid.as_raw())
                .ok_or_else(|| unfit(format!("{key}: no group {name}")))
        };
        Ok(Self {
            service_uid: user.uid.as_raw(),
            service_gid: user.gid.as_raw(),
            socket_gid: group("socket_group", &config.socket_group)?,
            admin_gid: group("admin_group", &config.admin_group)?,
            metrics_gid: group("metrics.group", config.metrics_group())?,
            groups: config
                .bounds
                .group
                .keys()
                .map(|name| BoundGroup::find(name))
                .collect::<Result<_, _>>()
                .on(file.display())?,
            file: file.to_owned(),
            config,
        })
    }

    /// The groups with bounds of their own that `peer` is in, whose supplementary groups these are.
    pub fn groups_of(&self, peer: &Peer, supplementary: &[u32]) -> Vec<String> {
        let is_in = |group: &&BoundGroup| {
            group.gid == peer.gid || supplementary.contains(&group.gid) || group.members.contains(&peer.uid)
        };
        self.groups.iter().filter(is_in).map(|group| group.name.clone()).collect()
    }
}
