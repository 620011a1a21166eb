//! The directories of a session's first overlay, made while nobody waits for them: a prepared session has them under a
//! name of its lease's, and gets them under its own.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::directories::{Directories, Doomed, open, overlay};
use agentd_session::error::{HostError, On as _};

/// From the top down. A builder gives the last two the owner and mode of what they lie over.
const BELOW: [(&str, u32); 3] = [("/0", 0o755), ("/0/upper", 0o700), ("/0/work", 0o700)];

/// Makes them for lease `number`. A launcher that comes after this one takes them for what is to be deleted.
///
/// # Errors
/// Then some may be there, and a session makes its own.
pub fn make(directories: &Directories, owner: u32, number: u32) -> Result<(), HostError> {
    let user = directories.ensure_user_overlays(owner)?;
    let top = Doomed::ahead(owner, number).name();
    let make = |name: &str, mode| rustix::fs::mkdirat(&user, name, Mode::from_raw_mode(mode));
    let made = make(&top, 0o700)
        .and_then(|()| BELOW.iter().try_for_each(|(below, mode)| make(&format!("{top}{below}"), *mode)));
    made.on(overlay(owner, &top))
}

/// Gives them to `session`.
///
/// # Errors
/// If they cannot be renamed or opened.
pub fn take(
    directories: &Directories,
    owner: u32,
    number: u32,
    session: &str,
) -> Result<Option<OwnedFd>, HostError> {
    let user = directories.ensure_user_overlays(owner)?;
    let top = Doomed::ahead(owner, number).name();
    match rustix::fs::renameat_with(&user, top, &user, session, RenameFlags::NOREPLACE) {
        Ok(()) => open(&user, session).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).on(overlay(owner, session)),
    }
}

/// Removes what nobody wanted. It is empty: nothing is walked.
///
/// # Errors
/// If something stays; it is deleted later, as its name says.
pub fn remove(directories: &Directories, owner: u32, number: u32) -> Result<(), HostError> {
    let Some(user) = directories.user_overlays(owner)? else { return Ok(()) };
    let top = Doomed::ahead(owner, number).name();
    for below in BELOW.iter().rev().map(|(below, _)| *below).chain([""]) {
        match rustix::fs::unlinkat(&user, format!("{top}{below}"), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).on(overlay(owner, &format!("{top}{below}"))),
        }
    }
    Ok(())
}
