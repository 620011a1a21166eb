//! What is kept of a session besides its events and its output: a file of its own, from its creation until it
//! is forgotten. With it a service that starts anew knows the sessions that there are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agentd_policy::egress::Egress;
use agentd_policy::mode::Mode;
use agentd_policy::mount::Workspace;
use agentd_policy::names::{AbsPath, SessionId, SessionName, UserName};
use agentd_policy::plan::Plan;
use agentd_policy::text;
use agentd_proto::v1::{Changes, Exit, Limits, Mount};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::{micros, time};
use crate::log::session_of;
use crate::text::arguments;

/// The format below.
pub const VERSION: u32 = 2;
/// The longest record, in bytes: more than the most mounts and arguments need.
const MAX_BYTES: u64 = 2 << 20;

/// All that stays known of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub version: u32,
    pub id: SessionId,
    pub name: Option<SessionName>,
    pub uid: u32,
    pub user: UserName,
    pub profile: String,
    /// argv, as far as it is shown.
    pub command: Vec<String>,
    pub cwd: AbsPath,
    pub terminal: bool,
    pub mounts: Vec<Mount>,
    pub limits: Limits,
    /// What it may reach now.
    pub egress: Option<Egress>,
    /// It is forgotten once it is over.
    pub remove: bool,
    /// Something of it stays on disk.
    pub overlay: bool,
    /// Microseconds since 1970, as all times here.
    pub created_us: u64,
    pub started_us: Option<u64>,
    pub ended_us: Option<u64>,
    /// It lives without any client.
    pub detached: bool,
    /// When its command was asked to end and the whole of it is to follow.
    pub stop_us: Option<u64>,
    /// Bytes that its command had written at its end.
    pub output: u64,
    /// All of its output had come.
    pub whole: bool,
    pub exit: Option<Exit>,
    /// What its user's client last said of its changes.
    #[serde(default)]
    pub changes: Option<Changes>,
    /// The format that it was read from, if that is not ours.
    #[serde(skip)]
    pub foreign: Option<u64>,
}

impl Record {
    /// Of a session that is about to be built.
    pub fn new(plan: &Plan, name: Option<SessionName>, uid: u32, profile: String, detached: bool) -> Self {
        let words: Vec<_> = plan.command.iter().map(|word| text::from_bytes(word)).collect();
        Self {
            version: VERSION,
            id: plan.session.clone(),
            name,
            uid,
            user: plan.user.clone(),
            profile,
            command: arguments(&words),
            cwd: plan.cwd.clone(),
            terminal: plan.terminal.is_some(),
            mounts: mounts(plan),
            limits: agentd_request::limits::limits(&plan.limits),
            egress: plan.egress.clone(),
            remove: plan.remove,
            overlay: plan.workspaces.iter().any(|w| w.mode == Mode::Overlay),
            created_us: micros(SystemTime::now()),
            started_us: None,
            ended_us: None,
            detached,
            stop_us: None,
            output: 0,
            whole: false,
            exit: None,
            changes: None,
            foreign: None,
        }
    }

    /// When it was requested.
    pub fn created_at(&self) -> SystemTime {
        time(self.created_us)
    }
}

fn mounts(plan: &Plan) -> Vec<Mount> {
    let mount = |path: &AbsPath, kind: &str, mode: &str| Mount {
        path: path.to_string(),
        kind: kind.to_owned(),
        mode: mode.to_owned(),
        source: String::new(),
    };
    let kind = |w: &Workspace| if w.git.is_some() { "git" } else { "workspace" };
    let workspaces = plan.workspaces.iter().map(|w| mount(&w.path, kind(w), w.mode.as_str()));
    let inputs = plan.inputs.iter().map(|i| mount(&i.path, "input", "ro"));
    let scratch = plan.scratch.iter().map(|s| mount(&s.path, "scratch", "rw"));
    workspaces.chain(inputs).chain(scratch).chain([mount(&plan.home, "home", "rw")]).collect()
}

/// The record's file.
pub fn path(dir: &Path, id: &SessionId) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// The file of its record once it was removed.
pub fn removed(dir: &Path, id: &SessionId) -> PathBuf {
    dir.join(format!("{id}.removed"))
}

/// Writes `bytes` beside the file at `path`, to take its place.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = file.and_then(|mut file| file.write_all(bytes).map(|()| file));
    if written.is_err() {
        // It is not what this is about, and the next attempt writes it anew.
        std::fs::remove_file(&new).ok();
    }
    written
}

/// Puts what was written beside the file at `path` in its place: a reader sees the one or the other, whole.
/// After a power cut too, if what was written is on disk before.
pub fn put(path: &Path) -> io::Result<()> {
    std::fs::rename(path.with_extension("tmp"), path)
}

/// All records of `dir`. One that is not what it should be is set aside, for a person to look at.
pub fn load(dir: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => set_aside(&path, &error),
            },
            Some("tmp") => {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "half a record stays");
                }
            }
            _ => {}
        }
    }
    records.sort_by_key(|record| record.created_us);
    Ok(records)
}

/// All records of sessions that were removed, the oldest first.
pub fn load_removed(dir: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "removed") {
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => set_aside(&path, &error),
            }
        }
    }
    records.sort_by_key(|record| record.created_us);
    Ok(records)
}

/// Renames a record that cannot be read.
pub fn set_aside(path: &Path, why: &dyn std::error::Error) {
    let aside = path.with_extension("broken");
    let session = session_of(path);
    tracing::error!(session, path = %aside.display(), error = %why, "a record was set aside");
    if let Err(error) = std::fs::rename(path, &aside) {
        tracing::error!(session, path = %path.display(), %error, "a record cannot be set aside");
    }
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("a record without a version")]
    NoVersion,
    #[error("a record of format {version}, without a {key} that format {VERSION} knows")]
    Foreign { version: u64, key: &'static str },
    #[error("it is of session {0}")]
    WrongName(SessionId),
    #[error("an end without a time, or a time without an end")]
    HalfEnd,
}

/// The record in the file at `path`.
pub fn read(path: &Path) -> Result<Record, RecordError> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    let value: Value = serde_json::from_str(&text)?;
    let record = match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => serde_json::from_value::<Record>(value)?,
        Some(version) => translate(&value, version)?,
        None => return Err(RecordError::NoVersion),
    };
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(record.id.as_str()) {
        return Err(RecordError::WrongName(record.id));
    }
    if record.exit.is_some() != record.ended_us.is_some() {
        return Err(RecordError::HalfEnd);
    }
    Ok(record)
}

/// A record of another format, as far as it is understood: whose session it was, and its history.
fn translate(value: &Value, version: u64) -> Result<Record, RecordError> {
    fn part<T: DeserializeOwned>(value: &Value, key: &str) -> Option<T> {
        serde_json::from_value(value.get(key)?.clone()).ok()
    }
    let needed = |key| RecordError::Foreign { version, key };
    let flag = |key: &str| part(value, key).unwrap_or(false);
    let number = |key: &str| part(value, key).unwrap_or(0);
    let exit: Option<Exit> = part(value, "exit");
    Ok(Record {
        version: VERSION,
        id: part(value, "id").ok_or_else(|| needed("id"))?,
        name: part(value, "name"),
        uid: part(value, "uid").ok_or_else(|| needed("uid"))?,
        user: part(value, "user").ok_or_else(|| needed("user"))?,
        profile: part(value, "profile").unwrap_or_default(),
        command: part(value, "command").unwrap_or_default(),
        cwd: part(value, "cwd").or_else(|| AbsPath::parse("/").ok()).ok_or_else(|| needed("cwd"))?,
        terminal: flag("terminal"),
        mounts: part(value, "mounts").unwrap_or_default(),
        limits: part(value, "limits").unwrap_or_default(),
        egress: part(value, "egress"),
        remove: flag("remove"),
        overlay: flag("overlay"),
        created_us: number("created_us"),
        started_us: part(value, "started_us"),
        ended_us: part(value, "ended_us").filter(|_| exit.is_some()),
        detached: flag("detached"),
        stop_us: None,
        output: number("output"),
        whole: flag("whole"),
        exit: exit.filter(|_| part::<u64>(value, "ended_us").is_some()),
        changes: part(value, "changes"),
        foreign: Some(version),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("agentd-record-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let dir = dir("whole");
        let record = crate::session::tests::session("aa0000000001", Some("web"), 1000).record();
        let path = path(&dir, &record.id);
        for bytes in [&b"{"[..], &serde_json::to_vec(&record).unwrap()] {
            write(&path, bytes).unwrap();
            put(&path).unwrap();
        }
        assert_eq!(load(&dir).unwrap(), [record]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_another_version_wrote_stays_readable() {
        let dir = dir("foreign");
        let record = crate::session::tests::session("aa0000000001", Some("web"), 1000).record();
        let mut value = serde_json::to_value(&record).unwrap();
        let fields = value.as_object_mut().unwrap();
        // Of a format with other fields, and others in them.
        fields.insert("version".into(), 1.into());
        fields.insert("more".into(), 1.into());
        fields.insert("limits".into(), "none".into());
        fields.remove("mounts");
        std::fs::write(path(&dir, &record.id), value.to_string()).unwrap();
        let read = load(&dir).unwrap();
        assert_eq!((read.len(), read[0].foreign, read[0].version), (1, Some(1), VERSION));
        assert_eq!((&read[0].id, read[0].uid, &read[0].command), (&record.id, 1000, &record.command));
        value.as_object_mut().unwrap().remove("uid");
        std::fs::write(path(&dir, &record.id), value.to_string()).unwrap();
        assert!(load(&dir).unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_not_a_record_is_set_aside() {
        let dir = dir("broken");
        let record = crate::session::tests::session("aa0000000001", None, 1000).record();
        let whole = serde_json::to_string(&record).unwrap();
        let broken = [
            ("aa0000000002.json", whole.clone()),
            ("aa0000000003.json", whole[..whole.len() - 9].to_owned()),
            ("aa0000000001.json", whole.replace("\"version\":2", "\"version\":true")),
            ("x.json", whole.replacen('{', "{\"more\":1,", 1)),
            ("x.tmp", whole),
        ];
        for (name, text) in &broken {
            std::fs::write(dir.join(name), text).unwrap();
        }
        assert!(load(&dir).unwrap().is_empty());
        std::fs::write(dir.join("aa0000000004.json"), "").unwrap();
        assert!(load(&dir).unwrap().is_empty());
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() == 5 && left.iter().all(|n| n.to_str().unwrap().ends_with(".broken")), "{left:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
