//! Which session a caller means.

use agentd_policy::names::{SessionId, SessionName};
use agentd_policy::rule::Rule;
use agentd_proto::v1::{InspectRequest, Mount};

use crate::connect::{Client, answer};
use crate::failure::Failure;

/// A session that the service found.
#[derive(Debug)]
pub struct Found {
    /// Its whole id.
    pub id: SessionId,
    /// Its name, or the id if it has none: what commands take.
    pub label: String,
    /// Whether it has ended, as the service says.
    pub has_ended: bool,
    /// Its directories, as the service says.
    pub mounts: Vec<Mount>,
}

/// The session that `text` means: an id, a unique prefix of one, or a name. Which session has a name the service says;
/// to an id that was given it cannot answer with another.
///
/// # Errors
/// As the daemon says, or if it answers with another session.
pub async fn find(client: &Client, text: &str) -> Result<Found, Failure> {
    let request = InspectRequest { id: text.to_owned() };
    let inspected = answer(client.clone().inspect(request)).await?;
    let session = inspected.session.as_ref();
    let is_meant = |id: &str, name: &str| match SessionId::parse(text) {
        Ok(whole) => id == whole.as_str(),
        Err(_) => name == text || id.starts_with(text),
    };
    let session = session.filter(|found| is_meant(&found.id, &found.name));
    let session = session.ok_or_else(|| {
        Failure::refused(
            format!("session {text:?}: the daemon answered with another one"),
            Rule::SessionOther,
            "give the whole id, and look at the daemon's log",
        )
    })?;
    let id = SessionId::parse(&session.id).map_err(|error| error.refusal(Rule::SessionId))?;
    // It becomes part of commands and of merged files.
    let name = SessionName::parse(&session.name).ok().map(|name| name.to_string());
    let label = name.unwrap_or_else(|| id.to_string());
    let has_ended = session.state == "ended";
    Ok(Found { id, label, has_ended, mounts: inspected.mounts })
}
