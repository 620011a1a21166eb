//! Open files of the whole host (`fs.file-max`). Each costs the session that opens it memory, so that their number
//! needs no limit of its own, and one that a session can use up takes files from everybody. systemd lifts it at boot;
//! where there is none the launcher does.

use agentd_session::error::{HostError, On as _};

const PATH: &str = "/proc/sys/fs/file-max";
/// What the kernel needs for one at least, in bytes; charged to its session.
const COST: u64 = 192;

/// Lifts the limit, if memory is not used up before.
pub fn lift() -> Result<(), HostError> {
    let enough = memory()? / COST;
    if read()? >= enough {
        return Ok(());
    }
    std::fs::write(PATH, i64::MAX.to_string()).on(PATH)?;
    match read()? {
        limit if limit >= enough => Ok(()),
        limit => Err(HostError::unfit(format!("{limit} after it was lifted")).on(PATH)),
    }
}

fn read() -> Result<u64, HostError> {
    let text = std::fs::read_to_string(PATH).on(PATH)?;
    text.trim().parse::<u64>().on(PATH)
}

/// The host's memory in bytes.
pub fn memory() -> Result<u64, HostError> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).on(path)?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).ok_or(HostError::unfit("no MemTotal")).on(path)
}
