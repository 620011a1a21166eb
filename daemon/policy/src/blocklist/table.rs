//! The table: a page of header, the names' hashes in order, and for each the number of its list. All numbers are little
//! endian.

use std::hash::Hasher as _;
use std::io;

use siphasher::sip::SipHasher13;

use super::{Label, MAX_LABEL, MAX_LISTS, MAX_NAMES, MAX_TABLE, Scope};
use crate::denial::Denial;
use crate::hosts::HostName;
use crate::rule::Rule;

/// Bytes before the hashes.
pub const HEADER: usize = 4096;
/// Bytes of a key.
pub const KEY: usize = 16;
const MAGIC: [u8; 8] = *b"agentdB1";
/// What a label takes: its length and its bytes.
const LABEL: usize = 1 + MAX_LABEL;
/// Where the labels are: after magic, key, number of names and number of lists.
const LABELS: usize = MAGIC.len() + KEY + 8;
/// Hashes that are read at a time: a page.
const PAGE: usize = 512;
/// How often a look-up trusts that hashes are spread evenly. In a table where they are not it halves then.
const GUESSES: u32 = 6;

const _: () = assert!(LABELS + MAX_LISTS * LABEL <= HEADER);

/// There are more names than may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("with it there are more than {MAX_NAMES} names in all lists together")]
pub struct Full;

/// What is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("blocklists: {0}")]
    Io(#[from] io::Error),
    /// It is of another form, or another length than it says.
    #[error("blocklists: not a table")]
    Form,
}

/// Makes a table.
#[derive(Debug)]
pub struct Compiler {
    key: [u8; KEY],
    labels: Vec<Label>,
    names: Vec<(u64, u8)>,
    full: bool,
}

impl Compiler {
    /// Of the lists `labels`, of which there are at most [`MAX_LISTS`], with a key that nobody can guess.
    pub fn new(key: [u8; KEY], labels: Vec<Label>) -> Self {
        Self { key, labels, names: Vec::new(), full: false }
    }

    /// Adds a name of the list with this number.
    pub fn add(&mut self, list: u8, scope: Scope, name: &HostName) {
        match self.names.len() < MAX_NAMES {
            true => self.names.push((hash(self.key, scope, name.as_str()), list)),
            false => self.full = true,
        }
    }

    /// Whether every name found room.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), Full> {
        if self.full { Err(Full) } else { Ok(()) }
    }

    /// Has `write` take the table, a piece at a time. A name that several lists have is the first one's.
    ///
    /// # Errors
    /// As `write`.
    pub fn finish<E>(mut self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.names.sort_unstable();
        self.names.dedup_by_key(|(hash, _)| *hash);
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(self.key);
        // Both are bounded, and so is a label: what is more would be refused by the reader of the table.
        header.extend(u32::try_from(self.names.len()).unwrap_or(u32::MAX).to_le_bytes());
        header.extend(u32::try_from(self.labels.len()).unwrap_or(u32::MAX).to_le_bytes());
        for label in &self.labels {
            header.push(u8::try_from(label.as_str().len()).unwrap_or(u8::MAX));
            header.extend(label.as_str().bytes().chain(std::iter::repeat(0)).take(MAX_LABEL));
        }
        header.resize(HEADER, 0);
        write(&header)?;
        let mut piece = Vec::with_capacity(HEADER);
        for names in self.names.chunks(HEADER / 8) {
            piece.clear();
            piece.extend(names.iter().flat_map(|(hash, _)| hash.to_le_bytes()));
            write(&piece)?;
        }
        for names in self.names.chunks(HEADER) {
            piece.clear();
            piece.extend(names.iter().map(|(_, list)| *list));
            write(&piece)?;
        }
        Ok(())
    }
}

type ReadAt = Box<dyn Fn(&mut [u8], u64) -> io::Result<()> + Send + Sync>;

/// A table that names are looked up in.
pub struct Blocklist {
    key: [u8; KEY],
    count: u64,
    labels: Vec<Label>,
    read: ReadAt,
}

impl std::fmt::Debug for Blocklist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocklist")
            .field("count", &self.count)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

impl Blocklist {
    /// A table of `size` bytes, of which `read` fills a buffer from an offset on. Who wrote it is not trusted: whatever
    /// it holds, a look-up ends.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(
        size: u64,
        read: impl Fn(&mut [u8], u64) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self, TableError> {
        if !(HEADER as u64..=MAX_TABLE).contains(&size) {
            return Err(TableError::Form);
        }
        let mut header = [0; HEADER];
        read(&mut header, 0)?;
        let (key, count, labels) = parse(&header).ok_or(TableError::Form)?;
        if size != HEADER as u64 + 9 * count {
            return Err(TableError::Form);
        }
        Ok(Self { key, count, labels, read: Box::new(read) })
    }

    /// How many names it has.
    pub fn names(&self) -> u64 {
        self.count
    }

    /// By which list `name` is not to be reached. What is unknown is not to be, either.
    ///
    /// # Errors
    /// The denial.
    pub fn check(&self, name: &HostName) -> Result<(), Denial> {
        let name = name.as_str();
        let parents = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        let below = std::iter::once(name).chain(parents).map(|name| hash(self.key, Scope::Below, name));
        for hash in std::iter::once(hash(self.key, Scope::Exact, name)).chain(below) {
            match self.find(hash) {
                Ok(None) => {}
                Ok(Some(label)) => return Err(Denial::about(Rule::Blocklist, label)),
                Err(_) => return Err(Rule::BlocklistUnreadable.into()),
            }
        }
        Ok(())
    }

    fn find(&self, hash: u64) -> Result<Option<&Label>, TableError> {
        let share = |part: u64| u64::try_from((u128::from(part) * u128::from(self.count)) >> 64).unwrap_or(0);
        let mut page = [0; PAGE * 8];
        // Where it can be, and where it is expected.
        let (mut low, mut high, mut guess) = (0, self.count, share(hash));
        let mut reads = 0;
        while low < high {
            let start = guess.clamp(low, high - 1) / PAGE as u64 * PAGE as u64;
            let length = usize::try_from(self.count - start).unwrap_or(PAGE).min(PAGE);
            let bytes = &mut page[..length * 8];
            (self.read)(bytes, HEADER as u64 + start * 8)?;
            let (hashes, _) = bytes.as_chunks::<8>();
            let at = |index: usize| hashes.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let (first, last) = (at(0), at(length - 1));
            reads += 1;
            if hash < first {
                high = start;
                guess = start.saturating_sub(share(first - hash) + 1);
            } else if hash > last {
                low = start + length as u64;
                guess = low.saturating_add(share(hash - last));
            } else {
                return match hashes.binary_search_by_key(&hash, |bytes| u64::from_le_bytes(*bytes)) {
                    Ok(index) => self.label(start + index as u64).map(Some),
                    Err(_) => Ok(None),
                };
            }
            if reads >= GUESSES {
                guess = low + (high.saturating_sub(low)) / 2;
            }
        }
        Ok(None)
    }

    fn label(&self, index: u64) -> Result<&Label, TableError> {
        let mut list = [0; 1];
        (self.read)(&mut list, HEADER as u64 + self.count * 8 + index)?;
        self.labels.get(usize::from(list[0])).ok_or(TableError::Form)
    }
}

fn parse(header: &[u8; HEADER]) -> Option<([u8; KEY], u64, Vec<Label>)> {
    let (magic, rest) = header.split_first_chunk::<8>()?;
    let (key, rest) = rest.split_first_chunk::<KEY>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (lists, rest) = rest.split_first_chunk::<4>()?;
    let lists = usize::try_from(u32::from_le_bytes(*lists)).ok().filter(|lists| *lists <= MAX_LISTS)?;
    if *magic != MAGIC {
        return None;
    }
    let label = |bytes: &[u8]| {
        let text = bytes.get(1..=usize::from(bytes[0])).and_then(|text| std::str::from_utf8(text).ok())?;
        Label::parse(text).ok()
    };
    let labels = rest.chunks(LABEL).take(lists).map(label).collect::<Option<_>>()?;
    Some((*key, u64::from(u32::from_le_bytes(*count)), labels))
}

/// SipHash: who does not have the key can find no two names that share one.
fn hash(key: [u8; KEY], scope: Scope, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(&[scope as u8]);
    hasher.write(name.as_bytes());
    hasher.finish()
}
