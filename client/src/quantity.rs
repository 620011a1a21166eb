//! Sizes, durations, times and signals as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

use agentd_policy::size::{parse_duration_ms, parse_size};

/// A value that is malformed; its text is the hint that clap prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("write a size such as 512M or 8G")]
    Size,
    #[error("write a duration such as 60s or 8h")]
    Duration,
    #[error("write a number above 0, such as 1.5")]
    Cpus,
    #[error("write a signal such as TERM, or a number from 1 to 64")]
    Signal,
    #[error("write a time in UTC such as 2026-01-02T03:04:05Z, or how long ago, such as 10m")]
    Time,
}

/// Bytes of `4096`, `64K`, `512M`, `8G`, `1T` (powers of 1024).
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn size(text: &str) -> Result<u64, Malformed> {
    parse_size(text).map_err(|_| Malformed::Size)
}

/// Milliseconds of `500ms`, `60s`, `15m`, `8h`, `90d`.
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn duration_ms(text: &str) -> Result<u64, Malformed> {
    parse_duration_ms(text).map_err(|_| Malformed::Duration)
}

/// The same, and seconds where there is no unit.
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn seconds_or_duration_ms(text: &str) -> Result<u64, Malformed> {
    let seconds = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if seconds { duration_ms(&format!("{text}s")) } else { duration_ms(text) }
}

/// A number of CPUs.
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn cpus(text: &str) -> Result<f64, Malformed> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus > 0.0 => Ok(cpus),
        _ => Err(Malformed::Cpus),
    }
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of `TERM`, `SIGTERM`, `sigterm` or `15`.
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn signal(text: &str) -> Result<i32, Malformed> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok().filter(|n| (1..=64).contains(n)))
        .ok_or(Malformed::Signal)
}

/// A point in time as RFC 3339: given so, or as how long ago (`10m`).
///
/// # Errors
/// `Malformed`, of the kind that this reads.
pub fn since(text: &str) -> Result<String, Malformed> {
    if let Ok(ms) = duration_ms(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        return Ok(rfc3339(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(ms)));
    }
    if looks_rfc3339(text) {
        return Ok(text.to_owned());
    }
    Err(Malformed::Time)
}

/// Milliseconds since 1970 as RFC 3339.
fn rfc3339(ms: u64) -> String {
    let (days, ms) = (ms / 86_400_000, ms % 86_400_000);
    // Days to a civil date, by eras of 400 years that begin on 1 March (H. Hinnant).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// Whether `text` has the shape of RFC 3339 in UTC, which is all that the daemon reads; it judges the rest.
fn looks_rfc3339(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let bytes = text.as_bytes();
    let head = bytes.len() > SHAPE.len()
        && bytes.iter().zip(SHAPE).all(|(b, s)| match s {
            b'0' => b.is_ascii_digit(),
            b'T' => matches!(b, b'T' | b't' | b' '),
            other => b == other,
        });
    if !head {
        return false;
    }
    let mut rest = &text[SHAPE.len()..];
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == fraction.len() {
            return false;
        }
    }
    matches!(rest, "Z" | "z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(duration_ms("8h"), Ok(28_800_000));
        assert_eq!(duration_ms("500ms"), Ok(500));
        for bad in ["", "M", "-1", "1.5G", "8GB", "99999999999T", "+3"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "8", "h", "1.5h", "-1s", "99999999999999d"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        assert_eq!([seconds_or_duration_ms("5"), seconds_or_duration_ms("5m")], [Ok(5_000), Ok(300_000)]);
        assert!(seconds_or_duration_ms("").is_err());
        assert_eq!(cpus("1.5"), Ok(1.5));
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_by_name_and_number() {
        for same in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(same), Ok(15));
        }
        for bad in ["", "SIG", "0", "65", "-1", "TERMINATE"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_323_045_678), "2026-01-02T03:04:05.678Z");
        for ok in ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901Z", "10m"] {
            assert!(since(ok).is_ok(), "{ok}");
        }
        for bad in [
            "",
            "today",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05+01:00",
        ] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _read = (size(&text), duration_ms(&text), cpus(&text), signal(&text), since(&text));
        }
    }
}
