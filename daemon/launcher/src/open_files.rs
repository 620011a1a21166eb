//! Open files of the whole host (`fs.file-max`). Each costs the session that opens it memory, so that their number needs no
//! limit of its own, and one that a session can use up takes files from everybody. systemd lifts it at boot; where there
//! is none the launcher does.

const PATH: &str = "/proc/sys/fs/file-max";
/// What the kernel needs for one at least, in bytes; charged to its session.
const COST: u64 = 192;

/// Lifts the limit, if memory is not used up before.
pub fn lift() -> Result<(), String> {
    let enough = memory()? / COST;
    if read()? >= enough {
        return Ok(());
    }
    std::fs::write(PATH, i64::MAX.to_string()).map_err(|e| format!("{PATH}: {e}"))?;
    match read()? {
        limit if limit >= enough => Ok(()),
        limit => Err(format!("{PATH}: {limit} after it was lifted")),
    }
}

fn read() -> Result<u64, String> {
    let text = std::fs::read_to_string(PATH).map_err(|e| format!("{PATH}: {e}"))?;
    text.trim().parse().map_err(|e| format!("{PATH}: {e}"))
}

/// The host's memory in bytes.
pub fn memory() -> Result<u64, String> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).ok_or_else(|| format!("{path}: no MemTotal"))
}
