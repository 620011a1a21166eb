//! Moments, as records and events have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last moment that RFC 3339 can name, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// `time` as events have it.
pub fn rfc3339(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_micros(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// The moment that an event names, in microseconds since 1970.
pub fn parse_rfc3339(text: &str) -> u64 {
    humantime::parse_rfc3339(text).map(micros).unwrap_or_default()
}

/// Microseconds since 1970.
pub fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The moment so many microseconds after 1970.
pub fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(micros)).unwrap_or(UNIX_EPOCH)
}
