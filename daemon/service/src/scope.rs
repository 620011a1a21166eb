//! The scope that all sessions live in where systemd is pid 1: asked for by the launcher, which runs this as a program
//! of its own (`agentd scope NAME PID`), so that no process that builds sessions parses D-Bus.
//!
//! A scope outlives both units, their restarts and their ends, and what is in it is its owner's to arrange
//! (`Delegate=yes`). It ends with its last process, or when it is stopped: at the latest with the host.
//! See `org.freedesktop.systemd1(5)` and systemd's CGROUP_DELEGATION.

use std::time::Duration;

use tokio_stream::{Stream, StreamExt as _};
use zbus::message::Type;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, MatchRule, Message, MessageStream};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const SLICE: &str = "agentd.slice";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const SYSTEMD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long what is in the scope may take to end by itself when it is stopped, in microseconds: at most this is what
/// sessions hold up a shutdown.
const STOP_USEC: u64 = 5_000_000;

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error("systemd: {0}")]
    Bus(#[from] zbus::Error),
    #[error("systemd: {0}")]
    Value(#[from] zbus::zvariant::Error),
    #[error("systemd: {0}")]
    Refused(#[from] zbus::fdo::Error),
    #[error("{name} was not started: the job ended with {result:?}")]
    Job { name: String, result: String },
    #[error("systemd hung up")]
    Gone,
    #[error("systemd did not answer in {SYSTEMD_TIMEOUT:?}")]
    Late,
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
}

/// Makes the scope `name` with the process `pid` in it, or finds the one that there is. Returns its cgroup, as a path
/// below the mount of cgroup2.
pub fn ensure(name: &str, pid: u32) -> Result<String, ScopeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ScopeError::Runtime)?.block_on(async {
        let found = tokio::time::timeout(SYSTEMD_TIMEOUT, found_or_made(name, pid)).await;
        found.map_err(|_| ScopeError::Late)?
    })
}

async fn found_or_made(name: &str, pid: u32) -> Result<String, ScopeError> {
    // systemd's private socket would do without a bus, but names a sender there that the library refuses.
    let systemd = Connection::system().await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD)?.interface(MANAGER.1)?.build();
    let mut signals = MessageStream::for_match_rule(rule, &systemd, None).await?;
    manage(&systemd, "Subscribe", &()).await?;
    loop {
        match state(&systemd, name).await?.as_deref() {
            Some("active") => return group(&systemd, name).await,
            None | Some("inactive" | "failed") => break,
            // It is about to end: a signal comes when it has.
            Some(_) => signal(&mut signals).await.map(drop)?,
        }
    }
    // One that failed is in the way; one that never was is not.
    manage(&systemd, "ResetFailedUnit", &name).await.ok();
    manage(&systemd, "StartUnit", &(SLICE, "replace")).await?;
    let started = manage(&systemd, "StartTransientUnit", &request(name, pid)).await?;
    let job: OwnedObjectPath = started.body().deserialize()?;
    match ended(&mut signals, &job).await? {
        result if result == "done" => group(&systemd, name).await,
        result => Err(ScopeError::Job { name: name.to_owned(), result }),
    }
}

async fn manage<B>(systemd: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType + Sync,
{
    systemd.call_method(Some(SYSTEMD), MANAGER.0, Some(MANAGER.1), method, body).await
}

/// The scope's state, if there is one.
async fn state(systemd: &Connection, name: &str) -> Result<Option<String>, ScopeError> {
    match manage(systemd, "GetUnit", &name).await {
        Ok(unit) => {
            let unit: OwnedObjectPath = unit.body().deserialize()?;
            property(systemd, &unit, "org.freedesktop.systemd1.Unit", "ActiveState").await.map(Some)
        }
        Err(zbus::Error::MethodError(error, _, _)) if error == NO_SUCH_UNIT => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The cgroup of the scope, which is active.
async fn group(systemd: &Connection, name: &str) -> Result<String, ScopeError> {
    let unit: OwnedObjectPath = manage(systemd, "GetUnit", &name).await?.body().deserialize()?;
    property(systemd, &unit, "org.freedesktop.systemd1.Scope", "ControlGroup").await
}

async fn property(
    systemd: &Connection,
    unit: &OwnedObjectPath,
    interface: &str,
    name: &str,
) -> Result<String, ScopeError> {
    let get = ("org.freedesktop.DBus.Properties", "Get");
    let answer =
        systemd.call_method(Some(SYSTEMD), unit.as_str(), Some(get.0), get.1, &(interface, name)).await?;
    let value: OwnedValue = answer.body().deserialize()?;
    Ok(String::try_from(value)?)
}

type Properties<'a> = Vec<(&'a str, Value<'a>)>;

/// What `StartTransientUnit` takes: name, mode, properties, further units.
fn request(name: &str, pid: u32) -> (&str, &str, Properties<'_>, Vec<(&str, Properties<'_>)>) {
    let properties = vec![
        ("Description", Value::from("Sessions of agentd")),
        ("Documentation", Value::from(vec!["man:agentd(8)"])),
        ("Slice", Value::from(SLICE)),
        ("PIDs", Value::from(vec![pid])),
        ("Delegate", Value::from(true)),
        // A session's own limits bound it, and [bounds] all of them.
        ("TasksMax", Value::from(u64::MAX)),
        ("TimeoutStopUSec", Value::from(STOP_USEC)),
        // At a shutdown sessions end while the service is there to record how.
        ("After", Value::from(vec!["agentd.service", "agentd-launcher.service"])),
        ("CollectMode", Value::from("inactive-or-failed")),
    ];
    // Without its dependencies: it is ordered behind units that wait for it.
    (name, "ignore-dependencies", properties, Vec::new())
}

/// Waits for the end of `job`; returns how it ended.
async fn ended(
    signals: &mut (impl Stream<Item = zbus::Result<Message>> + Unpin),
    job: &OwnedObjectPath,
) -> Result<String, ScopeError> {
    loop {
        let signal = signal(signals).await?;
        if signal.header().member().is_none_or(|member| member != "JobRemoved") {
            continue;
        }
        let (_, removed, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if removed == *job {
            return Ok(result);
        }
    }
}

/// Waits for the next signal about any unit.
async fn signal(
    signals: &mut (impl Stream<Item = zbus::Result<Message>> + Unpin),
) -> Result<Message, ScopeError> {
    Ok(signals.next().await.ok_or(ScopeError::Gone)??)
}
