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

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,12}") {
            let _ = parse_size(&text);
            let _ = parse_duration_ms(&text);
        }

        #[test]
        fn what_is_written_is_read(n in 0u64..1 << 41, shift in 0u32..20) {
            prop_assert_eq!(parse_size(&format_size(n << shift)), Ok(n << shift));
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(n)), Ok(n));
        }
    }
}
