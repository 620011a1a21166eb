//! What the site decides, as it is at one moment: the configuration and the site's profiles. Read at the start, and
//! again at a reload; a request sees one of them throughout.

mod blocklists;
mod profiles;

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use agentd_policy::config::{self, Config, ConfigError, MAX_CA_BUNDLE, Resolvers, Search};
use agentd_policy::network::Upstream;
use agentd_policy::resolver::Resolver;
use nix::unistd::{Group, User};
use rustix::fs::OFlags;

use self::profiles::Profiles;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The configuration and the profiles.
pub struct Site {
    pub config: Config,
    pub profiles: Profiles,
    /// Resolvers, search list and proxy of every session with a network.
    pub upstream: Upstream,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Form { path: String, source: ConfigError },
}

impl Site {
    /// Reads both. What is wrong with profiles is not an error yet.
    pub fn read(file: &Path) -> Result<Self, SiteError> {
        let path = file.display().to_string();
        let text = read(file).map_err(|source| SiteError::Read { path: path.clone(), source })?;
        let config = Config::parse(&text).map_err(|source| SiteError::Form { path, source })?;
        Ok(Self::of(config))
    }

    /// The same for a configuration that was read already.
    pub fn of(config: Config) -> Self {
        let upstream = Upstream {
            resolvers: match &config.egress.resolvers {
                Resolvers::System => system_resolvers(Path::new(RESOLV_CONF)),
                Resolvers::List(list) => list.clone(),
            },
            search: match &config.egress.search {
                Search::System => {
                    system(Path::new(RESOLV_CONF)).map_or_else(Vec::new, |text| Search::of_system(&text))
                }
                Search::List(list) => list.clone(),
            },
            allow_private_ranges: config.egress.allow_private_ranges.clone(),
            proxy: config.egress.proxy,
        };
        Self { profiles: Profiles::read(&config.profile_dirs), upstream, config }
    }

    /// What is wrong with the profiles.
    pub fn mistakes(&self) -> Vec<String> {
        self.profiles.mistakes(&self.config.bounds).iter().map(ToString::to_string).collect()
    }
}

/// Looks at `file`, at the accounts and blocklists that it names and at the profiles, as a start would take them.
///
/// # Errors
/// Every mistake, in one line each.
pub fn check(file: &Path) -> Result<Site, Vec<String>> {
    let site = Site::read(file).map_err(|error| vec![error.to_string()])?;
    let mut mistakes = accounts(&site.config);
    mistakes.extend(trust(&site));
    mistakes.iter_mut().for_each(|mistake| *mistake = format!("{}: {mistake}", file.display()));
    mistakes.extend(site.mistakes());
    mistakes.extend(blocklists::mistakes(&site.config.egress.blocklists));
    if mistakes.is_empty() { Ok(site) } else { Err(mistakes) }
}

/// Why the CA bundle is of no use, if some resolver needs it.
fn trust(site: &Site) -> Option<String> {
    let path = site.config.egress.trust.path();
    let needed = site.upstream.resolvers.iter().any(|resolver| resolver.tls.is_some());
    if !needed {
        return None;
    }
    match ca_bundle(Path::new(path)) {
        // The launcher may read what this account may not.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        done => {
            done.err().map(|error| format!("egress.trust: {path}: {error}; a resolver over TLS needs it"))
        }
    }
}

/// Whether `file` has certificates. What they are worth is the relay's to judge.
fn ca_bundle(file: &Path) -> std::io::Result<()> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let opened = open(file)?;
    let meta = opened.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("is not a regular file"));
    }
    if meta.len() > MAX_CA_BUNDLE {
        return Err(std::io::Error::other(format!("is longer than {MAX_CA_BUNDLE} bytes")));
    }
    let mut text = Vec::new();
    opened.take(MAX_CA_BUNDLE).read_to_end(&mut text)?;
    match text.windows(BEGIN.len()).any(|part| part == BEGIN) {
        true => Ok(()),
        false => Err(std::io::Error::other("has no certificate in PEM")),
    }
}

/// Accounts that are not there, or are not to be used so.
fn accounts(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    match User::from_name(&config.service_user) {
        Ok(Some(user)) if user.uid.is_root() => {
            mistakes.push("service_user: the service never runs as root".into());
        }
        Ok(Some(_)) => {}
        Ok(None) => mistakes.push(format!("service_user: no account {}", config.service_user)),
        Err(errno) => mistakes.push(format!("service_user: {errno}")),
    }
    let bounds = config.bounds.group.keys().map(|name| (format!("[bounds.group.{name}]"), name.as_str()));
    let groups = [
        ("socket_group".to_owned(), config.socket_group.as_str()),
        ("admin_group".to_owned(), &config.admin_group),
        ("metrics.group".to_owned(), config.metrics_group()),
    ];
    for (key, name) in groups.into_iter().chain(bounds) {
        match Group::from_name(name) {
            Ok(Some(_)) => {}
            Ok(None) => mistakes.push(format!("{key}: no group {name}")),
            Err(errno) => mistakes.push(format!("{key}: {errno}")),
        }
    }
    mistakes
}

/// The system's `resolv.conf(5)`.
fn system(file: &Path) -> Option<String> {
    let path = file.display();
    read(file)
        .inspect_err(|error| tracing::warn!(%path, %error, "the system's resolvers cannot be read"))
        .ok()
}

/// The resolvers that the system has now. Without any, sessions that ask for names are refused.
fn system_resolvers(file: &Path) -> Vec<Resolver> {
    let path = file.display();
    let Some(text) = system(file) else { return Vec::new() };
    let (resolvers, bad) = Resolvers::of_system(&text);
    for error in bad {
        tracing::warn!(%path, error, "a resolver is left out");
    }
    resolvers
}

/// Opens `file` without blocking, even if it is a FIFO.
pub fn open(file: &Path) -> std::io::Result<std::fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(file)
}

/// All of `file`, if it is a regular one; cut one byte after the longest that is good.
fn read(file: &Path) -> std::io::Result<String> {
    let opened = open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(std::io::Error::other("is not a regular file"));
    }
    let mut text = String::new();
    // One byte more than allowed, so that the reader of the text sees that it is too long.
    opened.take(config::MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_bundle_has_certificates() {
        let file = std::env::temp_dir().join(format!("agentd-ca-bundle-{}", std::process::id()));
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            ca_bundle(&file).err().map(|error| error.to_string())
        };
        assert_eq!(said("").as_deref(), Some("has no certificate in PEM"));
        assert_eq!(said("-----BEGIN PRIVATE KEY-----\n").as_deref(), Some("has no certificate in PEM"));
        assert_eq!(said(&"x".repeat(5 << 20)).as_deref(), Some("is longer than 4194304 bytes"));
        assert_eq!(said("ours\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(ca_bundle(&std::env::temp_dir()).unwrap_err().to_string(), "is not a regular file");
    }
}
