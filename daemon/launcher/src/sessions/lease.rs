//! Leases: which one is next, and what is on record of the session that holds it, for a later launcher.

use std::os::fd::OwnedFd;

use agentd_kernel::nsfs::Handle;
use agentd_policy::lease::{Groups, Lease, Pool};
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::wire::{MAX_PACKET, VERSION, WireError, decode, encode, prefix};
use agentd_session::Owner;
use serde::{Deserialize, Serialize};

use super::placeholders::Placeholder;
use super::{Session, Sessions};
use crate::context::Context;
use crate::directories::Directories;
use crate::workers::Place;
use agentd_session::error::{HostError, On as _};

/// What is written before the body: its length and its sum.
const HEADER: usize = 12;

/// What a lease's file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or what was torn.
    Nothing,
    /// What another version wrote.
    Foreign(Foreign),
    /// The session of a lease.
    Record(Box<Record>),
}

/// All that is known of a session from a record of another format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The format's number.
    pub version: u16,
    pub session: SessionId,
    pub uid: u32,
    /// With this first group.
    pub gid: u32,
}

impl Foreign {
    /// Why it cannot go on.
    pub fn reason(&self) -> String {
        format!(
            "its record is of format {}, and this launcher's of format {VERSION}: it was started by another version of \
             agentd, and is ended",
            self.version
        )
    }

    /// What is to be cleared away: its overlay stays for its user.
    pub fn record(&self) -> Record {
        Record {
            session: self.session.clone(),
            owner: Owner { uid: self.uid, gid: self.gid, groups: Groups::default() },
            keeper: 0,
            uppers: true,
            remove: false,
            ran: true,
            terminals: 0,
            users: None,
            buried: false,
            places: Vec::new(),
            dirs: Vec::new(),
            placeholders: Vec::new(),
        }
    }
}

/// What a later launcher must know of a session. In every format it begins with the session, the owner's uid and gid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub session: SessionId,
    pub owner: Owner,
    /// The keeper's pid; 0 if there is none.
    pub keeper: i32,
    /// As in [`Session`].
    pub uppers: bool,
    /// As in [`Session`].
    pub remove: bool,
    /// As in [`Session`].
    pub ran: bool,
    /// As in [`Session`].
    pub terminals: u32,
    /// As in [`Session`]: what the handle's bytes are, and they.
    pub users: Option<(i32, [u8; Handle::SIZE])>,
    /// Whether nothing but the lease is left of it.
    pub buried: bool,
    /// As in [`Session`].
    pub places: Vec<AbsPath>,
    /// Directories with placeholders: path, file system, number.
    pub dirs: Vec<(AbsPath, u64, u64)>,
    /// Placeholders: which of the directories, the name, and who made it.
    pub placeholders: Vec<(u32, String, (u32, u32))>,
}

impl Record {
    /// What there is to say of a session that somebody has asked for.
    pub fn of(session: &Session) -> Option<Self> {
        let mut dirs: Vec<(AbsPath, u64, u64)> = Vec::new();
        let mut placeholders = Vec::new();
        for placeholder in &session.placeholders {
            let (dev, ino) = placeholder.identity();
            let dir = (placeholder.workspace.clone(), dev, ino);
            let index = dirs.iter().position(|known| *known == dir).unwrap_or_else(|| {
                dirs.push(dir);
                dirs.len() - 1
            });
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            placeholders.push((index, placeholder.name.clone(), placeholder.owner));
        }
        Some(Self {
            session: session.id.clone()?,
            owner: session.owner,
            keeper: session.keeper.as_ref().map_or(0, |k| k.process.pid.as_raw_nonzero().get()),
            uppers: session.uppers,
            remove: session.remove,
            ran: session.ran,
            terminals: session.terminals,
            users: session.users.map(|users| (users.kind, users.bytes)),
            buried: false,
            places: session.places.clone(),
            dirs,
            placeholders,
        })
    }

    /// The placeholders, to be found by path.
    pub fn placeholders(&self) -> Vec<Placeholder> {
        let dir = |index: u32| self.dirs.get(usize::try_from(index).ok()?);
        let found = self.placeholders.iter().filter_map(|(index, name, owner)| {
            let (path, dev, ino) = dir(*index)?.clone();
            let place = Place::Named { path: path.clone(), dev, ino };
            Some(Placeholder { workspace: path, place, name: name.clone(), owner: *owner })
        });
        found.collect()
    }

    /// As in [`Session`].
    pub fn users(&self) -> Option<Handle> {
        self.users.map(|(kind, bytes)| Handle { kind, bytes })
    }

    fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        let body = encode(self)?;
        let length = u32::try_from(body.len()).map_err(|_| WireError::TooLong(body.len()))?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(sum(&body).to_le_bytes());
        bytes.extend(body);
        Ok(bytes)
    }

    /// Nothing unless all of it is there: what was torn counts as not written. Behind it may be the end of a longer
    /// one that it was written over.
    fn parse(bytes: &[u8]) -> Found {
        let Some(body) = whole(bytes) else { return Found::Nothing };
        let record: Self = match decode(body) {
            Ok(record) => record,
            Err(WireError::Version(version)) => return foreign(version, body).unwrap_or(Found::Nothing),
            Err(_) => return Found::Nothing,
        };
        let known = |index: &u32| usize::try_from(*index).is_ok_and(|index| index < record.dirs.len());
        match record.placeholders.iter().all(|(index, ..)| known(index)) {
            true => Found::Record(Box::new(record)),
            false => Found::Nothing,
        }
    }

    /// Writes it to lease `number`'s file, over what was there: a launcher that is killed leaves one or the other.
    pub fn write(&self, directories: &Directories, number: u32) -> Result<(), HostError> {
        let file = directories
            .lease_file(number)?
            .ok_or_else(|| HostError::unfit(format!("lease {number} has no file")))?;
        let object = format!("record of lease {number}");
        let bytes = self.to_bytes()?;
        match rustix::io::pwrite(&file, &bytes, 0).on(&object)? {
            count if count == bytes.len() => Ok(()),
            count => {
                let why = format!("{count} of {} bytes written", bytes.len());
                Err(HostError::unfit(why).on(object))
            }
        }
    }

    /// Reads it from a lease's file.
    pub fn read(file: &OwnedFd) -> Found {
        content(file).map_or(Found::Nothing, |bytes| Self::parse(&bytes))
    }
}

/// All that may be a record, and one byte more.
fn content(file: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEADER + MAX_PACKET + 1];
    let mut count = 0;
    while count < bytes.len() {
        let offset = u64::try_from(count).ok()?;
        match rustix::io::pread(file, bytes.get_mut(count..)?, offset).ok()? {
            0 => break,
            more => count += more,
        }
    }
    bytes.truncate(count);
    Some(bytes)
}

/// The body of a record that is there as a whole.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, body) = rest.split_first_chunk::<8>()?;
    let body = body.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (u64::from_le_bytes(*expected) == sum(body)).then_some(body)
}

/// What can be read of a record of another format.
fn foreign(version: u16, body: &[u8]) -> Option<Found> {
    let (session, uid, gid) = prefix(body).ok()?;
    Some(Found::Foreign(Foreign { version, session, uid, gid }))
}

/// FNV-1a: it finds what was torn, not what was forged; only root writes here.
fn sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

impl Sessions {
    /// A lease that nobody holds. They are used in turn, so that an id rests before it is used again.
    pub(super) fn lease(
        &mut self,
        pool: &Pool,
        directories: &Directories,
    ) -> Result<(Lease, OwnedFd), HostError> {
        for _ in 0..pool.leases() {
            let number = self.next_lease % pool.leases();
            self.next_lease = number.wrapping_add(1);
            if self.all.contains_key(&number) || self.resting.has(number) {
                continue;
            }
            if let (Some(lease), Some(lock)) = (pool.lease(number), directories.lock_lease(number)?) {
                return Ok((lease, lock));
            }
        }
        let all = pool.leases();
        let why = format!(
            "all {all} leases of the pool are taken, or at rest: something of their sessions is left"
        );
        Err(HostError::unfit(why))
    }

    /// Writes down what is known of session `number`.
    pub(super) fn record(&self, cx: &Context, number: u32) -> Result<(), HostError> {
        match self.all.get(&number).and_then(Record::of) {
            Some(record) => record.write(&cx.directories, number),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(names: Vec<String>) -> Record {
        let path = AbsPath::parse("/home/alice/project").unwrap();
        Record {
            session: SessionId::from_random([1, 2, 3, 4, 5, 6]),
            owner: Owner { uid: 1000, gid: 1000, groups: Groups::new(1000, &[27, 44]).unwrap() },
            keeper: 4711,
            uppers: true,
            remove: false,
            ran: true,
            terminals: 36,
            users: Some((241, [7; Handle::SIZE])),
            buried: false,
            places: vec![path.clone()],
            dirs: vec![(path, 7, 8)],
            placeholders: names.into_iter().map(|name| (0, name, (7, 8))).collect(),
        }
    }

    proptest! {
        #[test]
        fn it_comes_back_as_it_was_written(names in proptest::collection::vec(".{0,40}", 0..20)) {
            let record = record(names);
            prop_assert_eq!(Record::parse(&record.to_bytes().unwrap()), Found::Record(Box::new(record)));
        }

        #[test]
        fn what_was_torn_counts_as_none(at in 0_usize..400, keep in 0_usize..400) {
            let bytes = record(vec![".env".into(), "a".repeat(200)]).to_bytes().unwrap();
            // The end is missing, or was never written over what a truncation left.
            let torn = &bytes[..keep.min(bytes.len() - 1)];
            prop_assert_eq!(Record::parse(torn), Found::Nothing);
            let mut holes = bytes.clone();
            let end = holes.len();
            holes[at.min(end - 1)..].fill(0);
            prop_assert!(holes == bytes || Record::parse(&holes) == Found::Nothing);
        }

        #[test]
        fn a_longer_one_may_have_been_there_before(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            let record = record(vec![".env".into()]);
            let bytes = [record.to_bytes().unwrap(), rest].concat();
            prop_assert_eq!(Record::parse(&bytes), Found::Record(Box::new(record)));
        }

        #[test]
        fn nonsense_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Record::parse(&bytes), Found::Nothing);
        }
    }

    #[test]
    fn one_of_another_format_says_whose_it_is() {
        let record = record(vec![".env".into()]);
        let mut bytes = record.to_bytes().unwrap();
        bytes[HEADER..HEADER + 2].copy_from_slice(&1u16.to_le_bytes());
        // What followed the first two fields then is anybody's guess.
        let length = bytes.len() - 3;
        bytes.truncate(length);
        bytes[..4].copy_from_slice(&u32::try_from(length - HEADER).unwrap().to_le_bytes());
        let checked = sum(&bytes[HEADER..]);
        bytes[4..HEADER].copy_from_slice(&checked.to_le_bytes());
        let Found::Foreign(foreign) = Record::parse(&bytes) else { panic!() };
        assert_eq!((foreign.version, &foreign.session), (1, &record.session));
        assert_eq!((foreign.uid, foreign.gid), (record.owner.uid, record.owner.gid));
        assert!(foreign.reason().contains("format 1,") && foreign.record().ran);
    }

    #[test]
    fn a_placeholder_in_no_directory_is_nonsense() {
        let mut record = record(vec![".env".into()]);
        record.placeholders[0].0 = 1;
        assert_eq!(Record::parse(&record.to_bytes().unwrap()), Found::Nothing);
    }

    #[test]
    fn an_empty_file_has_none() {
        let path = std::env::temp_dir().join(format!("agentd-record-{}", std::process::id()));
        let file = OwnedFd::from(std::fs::File::create_new(&path).unwrap());
        assert_eq!(Record::read(&file), Found::Nothing);
        std::fs::remove_file(&path).unwrap();
    }
}
