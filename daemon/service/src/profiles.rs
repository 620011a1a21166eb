//! Profiles by name: the site's from `profile_dirs`, the built-in ones, and what the caller sent along.

use std::io::Read;
use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::config::Config;
use agentd_policy::library::{Library, Text};
use agentd_policy::names::ProfileName;
use agentd_policy::profile::{MAX_BYTES, Profile};
use agentd_proto::v1::ProfileRef;

use crate::error::malformed;
use crate::host::Host;

/// The most files that a request may bring.
const MAX_FILES: usize = 64;
/// What is worth a thread of its own to parse, in bytes.
const LARGE: usize = 32 << 10;

/// The profile that `wanted` means, merged with its parents.
pub async fn resolve(host: &Arc<Host>, wanted: Option<ProfileRef>) -> Result<Profile, Refusal> {
    let ProfileRef { name, files } = wanted.unwrap_or_default();
    if files.len() > MAX_FILES {
        return Err(malformed(format!("{} profile files", files.len()), "request.profile"));
    }
    let name = if name.is_empty() { "default" } else { &name };
    let name = match (ProfileName::parse(name), files.is_empty()) {
        (Ok(name), _) => name,
        (Err(e), true) => return Err(e.refusal("profile.name")),
        // The name only says what the file was found by; the file is there.
        (Err(_), false) => ProfileName::parse("file").map_err(|e| e.refusal("profile.name"))?,
    };
    let files: Vec<Text> = files.into_iter().map(|f| Text { label: f.path, toml: f.toml }).collect();
    if files.iter().map(|f| f.toml.len()).sum::<usize>() < LARGE {
        return lookup(&host.config, &files, &name);
    }
    let host = host.clone();
    tokio::task::spawn_blocking(move || lookup(&host.config, &files, &name))
        .await
        .map_err(|_| Refusal::new("the profile", "profile.form", "it could not be read; make it simpler"))?
}

fn lookup(config: &Config, files: &[Text], name: &ProfileName) -> Result<Profile, Refusal> {
    let site = |name: &ProfileName| site(config, name);
    Library { files, site: &site, bounds: &config.bounds }.resolve(name)
}

/// The site's profile of that name, from the first directory that has one.
fn site(config: &Config, name: &ProfileName) -> Result<Option<Text>, Refusal> {
    for dir in &config.profile_dirs {
        let label = format!("{dir}/{name}.toml");
        let unreadable = |e: std::io::Error| {
            Refusal::new(
                format!("profile {label}: {e}"),
                "profile.unreadable",
                "ask the administrator to mend it",
            )
        };
        let file = match std::fs::File::open(&label) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(unreadable(e)),
        };
        let mut toml = String::new();
        // One byte more than allowed, so that the reader of the text sees that it is too long.
        file.take(MAX_BYTES as u64 + 1).read_to_string(&mut toml).map_err(unreadable)?;
        return Ok(Some(Text { label, toml }));
    }
    Ok(None)
}
