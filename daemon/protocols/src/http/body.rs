//! Where a body ends: by its length, or by its chunks (RFC 9112 §6, §7.1).

use super::Refused;

/// The most bytes of extensions that a chunk may have.
const MAX_EXTENSION: usize = 1024;
/// The most bytes of trailers.
const MAX_TRAILERS: usize = 16 << 10;
/// The most digits of a chunk's size: what an `i64` holds.
const MAX_DIGITS: u8 = 15;
/// As much of a trailer's name as decides whether it is one of these.
const NAME: usize = 18;
/// Fields that must not come behind a body (RFC 9110 §6.5.1): somebody could merge them into the head.
const FORBIDDEN: [&[u8]; 8] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"upgrade",
    b"expect",
    b"trailer",
    b"te",
];

/// Whether a byte may be in a token, such as a method or a field's name (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What is left of a body.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// That many bytes.
    Length(u64),
    /// Chunks, at this place.
    Chunked(Chunks),
}

/// Where in the chunks the next byte is.
#[derive(Clone, Debug)]
pub(super) enum Chunks {
    Size { size: u64, digits: u8 },
    Extension { size: u64, len: usize },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers { total: usize, line: Trailer },
    End,
}

/// Where in the line of a trailer the next byte is.
#[derive(Clone, Debug)]
pub(super) enum Trailer {
    Name { name: [u8; NAME], len: usize },
    Value,
    LineFeed,
    LastLineFeed,
}

impl Trailer {
    const BEGIN: Self = Self::Name { name: [0; NAME], len: 0 };
}

impl Body {
    /// There is no body.
    pub(super) const NONE: Self = Self::Length(0);

    /// Chunks, from the first on.
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks::Size { size: 0, digits: 0 })
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::End))
    }

    /// How many bytes of data come next, whatever they are.
    pub(super) fn certain(&self) -> u64 {
        match self {
            Self::Length(left) | Self::Chunked(Chunks::Data { left }) => *left,
            Self::Chunked(_) => 0,
        }
    }

    /// Takes note that as many of them went by.
    pub(super) fn skip(&mut self, count: u64) {
        match self {
            Self::Length(left) => *left = left.saturating_sub(count),
            Self::Chunked(place @ Chunks::Data { .. }) => {
                if let Chunks::Data { left } = place {
                    *left = left.saturating_sub(count);
                    if *left == 0 {
                        *place = Chunks::DataCr;
                    }
                }
            }
            Self::Chunked(_) => {}
        }
    }

    /// How many of the first bytes of `input` belong to it.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<usize, Refused> {
        let mut taken = 0;
        while taken < input.len() && !self.is_done() {
            let certain = usize::try_from(self.certain()).unwrap_or(usize::MAX).min(input.len() - taken);
            if certain > 0 {
                self.skip(certain as u64);
                taken += certain;
            } else if let Self::Chunked(place) = self {
                place.step(input[taken])?;
                taken += 1;
            }
        }
        Ok(taken)
    }
}

impl Chunks {
    fn step(&mut self, byte: u8) -> Result<(), Refused> {
        const SIZE: Refused = Refused::Form("a chunk's size");
        *self = match (&mut *self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map(u64::from).ok_or(SIZE)?;
                if *digits == MAX_DIGITS {
                    return Err(SIZE);
                }
                Self::Size { size: *size << 4 | digit, digits: *digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(SIZE),
            (Self::Size { size, .. }, b'\r') => Self::SizeEnd { size: *size },
            (Self::Size { size, .. }, b';') => Self::Extension { size: *size, len: 1 },
            (Self::Size { .. }, _) => return Err(SIZE),
            (Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size: *size },
            (Self::Extension { size, len }, b'\t' | b' '..=b'~') => {
                if *len == MAX_EXTENSION {
                    return Err(Refused::TooLong("a chunk's extension"));
                }
                Self::Extension { size: *size, len: *len + 1 }
            }
            (Self::Extension { .. }, _) => return Err(Refused::Form("a chunk's extension")),
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailers { total: 0, line: Trailer::BEGIN },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: *size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::SizeEnd { .. } | Self::DataCr | Self::DataLf, _) => {
                return Err(Refused::Form("a chunk's end"));
            }
            (Self::Trailers { total, line }, _) => {
                if *total == MAX_TRAILERS {
                    return Err(Refused::TooLong("the trailers"));
                }
                match line.step(byte)? {
                    Some(line) => Self::Trailers { total: *total + 1, line },
                    None => Self::End,
                }
            }
            (Self::Data { .. } | Self::End, _) => return Err(SIZE),
        };
        Ok(())
    }
}

impl Trailer {
    /// The place behind `byte`; `None` at the end of all trailers.
    fn step(&mut self, byte: u8) -> Result<Option<Self>, Refused> {
        const FORM: Refused = Refused::Form("a trailer");
        Ok(Some(match (self, byte) {
            (Self::Name { len: 0, .. }, b'\r') => Self::LastLineFeed,
            (Self::Name { name, len }, b':') => {
                let name = &name[..(*len).min(NAME)];
                if name.is_empty() || FORBIDDEN.contains(&name) {
                    return Err(FORM);
                }
                Self::Value
            }
            (Self::Name { name, len }, _) if is_token(byte) => {
                let mut name = *name;
                if let Some(place) = name.get_mut(*len) {
                    *place = byte.to_ascii_lowercase();
                }
                Self::Name { name, len: *len + 1 }
            }
            (Self::Value, b'\r') => Self::LineFeed,
            (Self::Value, b'\t' | b' '..=b'~' | 0x80..) => Self::Value,
            (Self::LineFeed, b'\n') => Self::BEGIN,
            (Self::LastLineFeed, b'\n') => return Ok(None),
            _ => return Err(FORM),
        }))
    }
}
