//! Sizes and durations as people write them: `512M`, `8h`.

/// A size or duration that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a {1}")]
pub struct QuantityError(String, &'static str);

/// Bytes of a size such as `4096`, `64K`, `512M`, `8G`, `1T` (powers of 1024).
///
/// # Errors
/// When `text` is something else, or more than 2^63 bytes.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let fail = || QuantityError(text.chars().take(32).collect(), "size such as 512M or 8G");
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fail());
    }
    let number: u64 = digits.parse().map_err(|_| fail())?;
    number.checked_mul(1 << shift).filter(|n| *n < 1 << 63).ok_or_else(fail)
}

/// Milliseconds of a duration such as `500ms`, `60s`, `15m`, `8h`, `90d`.
///
/// # Errors
/// When `text` is something else, or more than a hundred years.
pub fn parse_duration_ms(text: &str) -> Result<u64, QuantityError> {
    let fail = || QuantityError(text.chars().take(32).collect(), "duration such as 60s or 8h");
    let cut = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
    let number: u64 = text[..cut].parse().map_err(|_| fail())?;
    let unit: u64 = match &text[cut..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(fail()),
    };
    number.checked_mul(unit).filter(|ms| *ms <= 100 * 366 * 86_400_000).ok_or_else(fail)
}

/// `bytes` as [`parse_size`] reads it, in the largest unit that needs no fraction.
pub fn format_size(bytes: u64) -> String {
    [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// `ms` as [`parse_duration_ms`] reads it, in the largest unit that needs no fraction.
pub fn format_duration_ms(ms: u64) -> String {
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
        .map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// `bytes` for a sentence: `2 GiB`, `1.5 GiB`, `100 bytes`.
pub fn readable_size(bytes: u64) -> String {
    let unit = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0);
    let Some((shift, unit)) = unit else { return format!("{bytes} bytes") };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// `ms` for a sentence, as it was given: `30m`, `90s`; fractions of a second as `0.5s`.
pub fn readable_duration(ms: u64) -> String {
    if ms.is_multiple_of(1_000) && ms > 0 {
        format_duration_ms(ms)
    } else {
        format!("{}s", ms as f64 / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("8G"), Ok(8 << 30));
        for bad in ["", "M", "-1", "1.5G", "8GB", "99999999999T", "1 G", "+3"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration_ms("60s"), Ok(60_000));
        assert_eq!(parse_duration_ms("8h"), Ok(28_800_000));
        for bad in ["", "8", "h", "1.5h", "-1s", "8 h", "99999999999999d"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn for_sentences() {
        let sizes =
            [0, 1023, 1 << 10, 64 << 20, 3 << 29, (2 << 30) + 1, 8_388_609, u64::MAX].map(readable_size);
        let wanted =
            ["0 bytes", "1023 bytes", "1 KiB", "64 MiB", "1.5 GiB", "2 GiB", "8 MiB", "16777215.9 TiB"];
        assert_eq!(sizes, wanted);
        let durations = [0, 500, 1_500, 90_000, 1_800_000, 7_200_000].map(readable_duration);
        assert_eq!(durations, ["0s", "0.5s", "1.5s", "90s", "30m", "2h"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,12}") {
            parse_size(&text).ok();
            parse_duration_ms(&text).ok();
        }

        #[test]
        fn what_is_written_is_read(n in 0u64..1 << 41, shift in 0u32..20) {
            prop_assert_eq!(parse_size(&format_size(n << shift)), Ok(n << shift));
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(n)), Ok(n));
        }
    }
}
