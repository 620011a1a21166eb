//! The mistakes in the site's blocklists, for `agentd --check` and a reload. In force is what the launcher makes of
//! them.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agentd_policy::blocklist::{self, ListFile, MAX_NAMES};

use crate::site::open;

/// What is wrong with them, a line each.
pub fn mistakes(lists: &[ListFile]) -> Vec<String> {
    let mut names = 0_usize;
    let mut mistakes = Vec::new();
    for list in lists {
        match count(list) {
            Ok(count) => names = names.saturating_add(count),
            Err(error) => mistakes.push(format!("{}: {error}", list.path)),
        }
    }
    if names > MAX_NAMES {
        mistakes.push(format!("blocklists: {names} names in all, more than {MAX_NAMES}"));
    }
    mistakes
}

/// Why a list cannot be taken.
#[derive(Debug, thiserror::Error)]
enum NoList {
    #[error("must be readable by everybody: nothing reads it as root")]
    Closed,
    #[error(transparent)]
    Unfit(#[from] blocklist::FileError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] blocklist::ListError),
}

/// How many names it has.
fn count(list: &ListFile) -> Result<usize, NoList> {
    let file = open(Path::new(list.path.as_str())).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => NoList::Closed,
        _ => error.into(),
    })?;
    let meta = file.metadata()?;
    blocklist::check_file(meta.is_file(), meta.len(), meta.uid(), meta.mode())?;
    let summary = blocklist::read(file, |_, _| {})?;
    Ok(usize::try_from(summary.names).unwrap_or(usize::MAX))
}
