//! What the launcher knows before it listens: the configuration, read once from a file that only root can
//! write, and the accounts that it names.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentd_policy::config::{self, Config};

/// The configuration with its names resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file's content.
    pub config: Config,
    /// Where it was, for the service.
    pub file: PathBuf,
    /// The service's account.
    pub service_uid: u32,
    /// Its group.
    pub service_gid: u32,
    /// Who may connect.
    pub socket_gid: u32,
    /// Who sees everyone's sessions.
    pub admin_gid: u32,
    /// Who may ask for numbers.
    pub metrics_gid: u32,
}

impl Settings {
    /// Reads `file`, which must belong to root and be writable by nobody else: whoever can write it decides
    /// what root does.
    pub fn read(file: &Path) -> Result<Self, String> {
        let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
        let meta = std::fs::metadata(file).map_err(|e| fail(&e))?;
        if !meta.is_file() || meta.len() > config::MAX_BYTES as u64 {
            return Err(fail(&"is not a regular file of at most 256 KiB"));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(fail(&"must belong to root and be writable by nobody else (chown root, chmod 644)"));
        }
        let text = std::fs::read_to_string(file).map_err(|e| fail(&e))?;
        let config = Config::parse(&text).map_err(|e| fail(&e))?;
        let user = nix::unistd::User::from_name(&config.service_user)
            .map_err(|e| fail(&e))?
            .ok_or_else(|| fail(&format!("service_user: no account {}", config.service_user)))?;
        if user.uid.is_root() {
            return Err(fail(&"service_user: the service never runs as root"));
        }
        let group = |key: &str, name: &str| {
            nix::unistd::Group::from_name(name)
                .map_err(|e| fail(&e))?
                .map(|g| g.gid.as_raw())
                .ok_or_else(|| fail(&format!("{key}: no group {name}")))
        };
        Ok(Self {
            service_uid: user.uid.as_raw(),
            service_gid: user.gid.as_raw(),
            socket_gid: group("socket_group", &config.socket_group)?,
            admin_gid: group("admin_group", &config.admin_group)?,
            metrics_gid: group("metrics.group", config.metrics_group())?,
            file: file.to_owned(),
            config,
        })
    }
}
