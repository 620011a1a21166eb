//! Free space of the file system of `state_dir`.

use std::os::fd::AsFd;

use agentd_policy::limits::DiskForm;
use agentd_session::error::{HostError, On as _};
use agentd_session::{Reserve, Space, Usage, image};

/// Whether one more session may begin to write to the file system of `fd`. The reserve that it has to leave alone.
///
/// # Errors
/// How much is free, and how much has to be.
pub fn admit(
    fd: impl AsFd,
    configured: Option<u64>,
    limit: Usage,
    form: DiskForm,
) -> Result<Reserve, HostError> {
    let space = Space::of(fd).on("statfs")?;
    let reserve = Reserve::of(space.size, configured);
    let needed = match form {
        DiskForm::Image => reserve.0 + Usage { bytes: image::size(limit), inodes: 1 },
        // Something of its own it shall find, too: as much as the reserve, or its limit if that is less.
        DiskForm::Quota | DiskForm::Watch => reserve.0 + limit.min(reserve.0),
    };
    if space.free.bytes < needed.bytes || space.free.inodes < needed.inodes {
        return Err(HostError::unfit(format!(
            "{} bytes and {} inodes are free, {} and {} have to be",
            space.free.bytes, space.free.inodes, needed.bytes, needed.inodes
        )));
    }
    Ok(reserve)
}

/// How much is free beside the reserve, in words.
///
/// # Errors
/// The same, if it is touched.
pub fn free(fd: impl AsFd, configured: Option<u64>) -> Result<String, HostError> {
    let space = Space::of(fd).on("statfs")?;
    let reserve = Reserve::of(space.size, configured);
    let found = format!("{} MiB free, {} MiB of it reserved", space.free.bytes >> 20, reserve.0.bytes >> 20);
    if reserve.is_touched(&space) { Err(HostError::unfit(found)) } else { Ok(found) }
}
