//! One file's lines. What is understood only in part is not taken at all: no line ever means more than is written.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{MAX_FILE, MAX_LINE, Scope};
use crate::hosts::{HostError, HostName};

/// How many lines that are skipped are kept with their reasons.
const MAX_REASONS: usize = 3;
/// Of so many lines that are taken, one that cannot be is skipped. More of them are a mistake: in a list that
/// somebody wrote by hand, or that is of another form.
const GOOD_FOR_ONE: u32 = 100;

/// What the hosts files of systems, with which published ones begin, call the own machine and its networks.
const USUAL: [&str; 13] = [
    "localhost",
    "localhost.localdomain",
    "localdomain",
    "local",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
    "0.0.0.0",
];

/// Addresses by which a line blocks its names. Others are a machine's.
const NOWHERE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Why a file is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ListError {
    /// One line, without which the rest would mean more than is written.
    #[error("line {0}: {1}")]
    Line(u32, String),
    /// Too many lines that cannot be taken, the first of them with its reason.
    #[error(
        "line {0}: {1}; {2} such lines beside {3} good ones are too many to pass over: fix them, or take them out"
    )]
    Odd(u32, String, u32, u32),
    /// Longer than [`MAX_FILE`].
    #[error("longer than {} MiB", MAX_FILE >> 20)]
    TooLong,
    /// It cannot be read.
    #[error("{0}")]
    Read(String),
    /// No name at all.
    #[error("names nothing: give hosts(5) lines such as `0.0.0.0 ads.example`, or a name a line")]
    Nothing,
}

/// What a file held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Names, each as often as it is there.
    pub names: u32,
    /// Lines that were skipped.
    pub odd: u32,
    /// The first of them, each with its reason.
    pub reasons: Vec<String>,
}

/// Why a line is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum LineError {
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("not UTF-8")]
    NotUtf8,
    #[error("neither an address and names nor one name")]
    Words,
    #[error("of another form than the lines before")]
    OtherForm,
    #[error("{0} is an address of some machine, not 0.0.0.0, 127.0.0.1, :: or ::1")]
    Machine(IpAddr),
    #[error("an address without a name")]
    NoName,
    #[error("a filter of another form than ||name^")]
    Filter,
    #[error(transparent)]
    Name(#[from] HostError),
}

/// All lines of a file are of one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Hosts,
    Names,
}

/// Reads a file's bytes as they come.
#[derive(Debug, Default)]
pub struct Reader {
    form: Option<Form>,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
    lines: u32,
    good: u32,
    names: u32,
    odd: u32,
    reasons: Vec<(u32, LineError)>,
}

impl Reader {
    /// Takes more bytes; `each` takes the names.
    ///
    /// # Errors
    /// A line that cannot be skipped; nothing of the file is to be used then.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Scope, &HostName)) -> Result<(), ListError> {
        let mut pieces = bytes.split_inclusive(|byte| *byte == b'\n');
        pieces.try_for_each(|piece| match piece.strip_suffix(b"\n") {
            Some(line) if self.held.is_empty() => self.line(line, &mut each),
            Some(end) => {
                self.hold(end);
                let line = std::mem::take(&mut self.held);
                self.line(&line, &mut each)
            }
            None => {
                self.hold(piece);
                Ok(())
            }
        })
    }

    /// There is no more.
    ///
    /// # Errors
    /// If it is no list.
    pub fn finish(mut self, mut each: impl FnMut(Scope, &HostName)) -> Result<Summary, ListError> {
        if !self.held.is_empty() {
            let line = std::mem::take(&mut self.held);
            self.line(&line, &mut each)?;
        }
        match self.reasons.first() {
            Some((line, why)) if self.odd > self.good / GOOD_FOR_ONE => {
                Err(ListError::Odd(*line, why.to_string(), self.odd, self.good))
            }
            _ if self.names == 0 => Err(ListError::Nothing),
            _ => {
                let reasons =
                    self.reasons.into_iter().map(|(line, why)| format!("line {line}: {why}")).collect();
                Ok(Summary { names: self.names, odd: self.odd, reasons })
            }
        }
    }

    /// No more of a line than shows that it is too long.
    fn hold(&mut self, piece: &[u8]) {
        let room = (MAX_LINE + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(Scope, &HostName)) -> Result<(), ListError> {
        self.lines = self.lines.saturating_add(1);
        let line = if self.lines == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let read = match parse(line) {
            Ok(None) => return Ok(()),
            Ok(Some(Read::Exception)) => {
                let why = "an exception (@@): what is blocked has none; take it out, and what it is about";
                return Err(ListError::Line(self.lines, why.into()));
            }
            Ok(Some(Read::Names(form, names))) if self.form.is_none_or(|known| known == form) => {
                Ok((form, names))
            }
            Ok(Some(Read::Names(..))) => Err(LineError::OtherForm),
            Err(why) => Err(why),
        };
        match read {
            Ok((form, names)) => {
                self.form = Some(form);
                self.good = self.good.saturating_add(1);
                self.names = self.names.saturating_add(u32::try_from(names.len()).unwrap_or(u32::MAX));
                let scope = match form {
                    Form::Hosts => Scope::Exact,
                    Form::Names => Scope::Below,
                };
                names.iter().for_each(|name| each(scope, name));
            }
            Err(why) => {
                self.odd = self.odd.saturating_add(1);
                if self.reasons.len() < MAX_REASONS {
                    self.reasons.push((self.lines, why));
                }
            }
        }
        Ok(())
    }
}

/// Reads a whole file.
///
/// # Errors
/// If it is no list, is too long or cannot be read. What `each` took is of no use then.
pub fn read(mut file: impl io::Read, mut each: impl FnMut(Scope, &HostName)) -> Result<Summary, ListError> {
    let (mut reader, mut buffer, mut left) = (Reader::default(), vec![0; 64 << 10], MAX_FILE);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return reader.finish(each),
            Ok(count) => {
                left = left.checked_sub(count as u64).ok_or(ListError::TooLong)?;
                reader.feed(&buffer[..count], &mut each)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ListError::Read(error.to_string())),
        }
    }
}

/// What a line says.
enum Read {
    Names(Form, Vec<HostName>),
    Exception,
}

/// `None` for an empty line or a comment.
fn parse(line: &[u8]) -> Result<Option<Read>, LineError> {
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    // Comments are in any encoding.
    let line = line.trim_ascii();
    if line.is_empty() || b"#![".contains(&line[0]) {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
    if line.starts_with("@@") {
        return Ok(Some(Read::Exception));
    }
    // A `#` inside a word begins something else: `name##.banner` hides a part of a page.
    let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(first) = words.next() else { return Ok(None) };
    let address = first.split_once('%').map_or(first, |(address, _)| address);
    match address.parse::<IpAddr>() {
        Ok(address) => hosts(address, words).map(|names| Some(Read::Names(Form::Hosts, names))),
        Err(_) if words.next().is_some() => Err(LineError::Words),
        Err(_) => name(first).map(|name| Some(Read::Names(Form::Names, vec![name]))),
    }
}

/// A line of `hosts(5)`. One that leads somewhere blocks nothing.
fn hosts<'a>(address: IpAddr, words: impl Iterator<Item = &'a str>) -> Result<Vec<HostName>, LineError> {
    let nowhere = NOWHERE.contains(&address);
    let (mut names, mut any) = (Vec::new(), false);
    for word in words {
        any = true;
        if USUAL.iter().any(|usual| word.eq_ignore_ascii_case(usual)) {
            continue;
        }
        if !nowhere {
            return Err(LineError::Machine(address));
        }
        names.push(HostName::parse(word)?);
    }
    if any { Ok(names) } else { Err(LineError::NoName) }
}

/// `name`, `*.name` or `||name^`.
fn name(word: &str) -> Result<HostName, LineError> {
    let filter = word.strip_prefix("||").map(|rest| rest.strip_suffix('^').ok_or(LineError::Filter));
    let name = match filter {
        Some(name) => name?,
        None => word.strip_prefix("*.").unwrap_or(word),
    };
    Ok(HostName::parse(name)?)
}
