//! What the sets hold: added for a time, renewed, taken away, and each time read back.

use std::time::Duration;

use nftnl::{Batch, FinalizedBatch, MsgType};

use super::sets::{self, AT_ONCE, Element, Elements, Set};
use super::{NftError, Table};
use crate::netlink::NetlinkError;

/// How often a batch is put together again because an element expired, or had not expired, against expectation.
const TRIES: usize = 3;

impl Table {
    /// Has each of `elements` pass for `timeout` from now on. Those that are `held` lasted until now as far as the
    /// caller knows: they are taken away and added again in one batch, since not every kernel renews what is added
    /// twice.
    ///
    /// # Errors
    /// [`NftError`]. Nothing was changed unless it is [`NftError::Differs`].
    pub fn pin(&self, elements: &[(Element, bool)], timeout: Duration) -> Result<(), NftError> {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut elements = elements.to_vec();
        let all: Vec<Element> = elements.iter().map(|(element, _)| *element).collect();
        self.retried(&mut elements, |elements| {
            let held: Vec<Element> = elements.iter().filter(|(_, held)| *held).map(|(e, _)| *e).collect();
            batch(&held, &all, ms)
        })?;
        for one in grouped(&all) {
            let mut answers = one.iter();
            let mut wrong = None;
            let asked = self.0.ask_for(&sets::get(&one), one.len(), |message| {
                let element = answers.next();
                let left = element.and_then(|element| sets::lasts(element, message.payload()));
                if left.is_none_or(|left| left > ms) {
                    wrong = wrong.or(element);
                }
                Ok(())
            });
            match asked {
                Err(NetlinkError::Refused { error, .. }) => {
                    return Err(NftError::Differs(format!("an element that was added: {error}")));
                }
                result => result?,
            }
            if let Some(element) = wrong {
                return Err(NftError::Differs(format!("{element:?} is not what was meant")));
            }
        }
        Ok(())
    }

    /// Takes `elements` away, whether they are there or not.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn unpin(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut held: Vec<_> = elements.iter().map(|element| (*element, true)).collect();
        self.retried(&mut held, |held| {
            let held: Vec<Element> = held.iter().filter(|(_, held)| *held).map(|(e, _)| *e).collect();
            batch(&held, &[], 0)
        })?;
        for element in elements {
            if self.holds(element)? {
                return Err(NftError::Differs(format!("{element:?} is still there")));
            }
        }
        Ok(())
    }

    /// Whether it passes now.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn holds(&self, element: &Element) -> Result<bool, NftError> {
        let mut left = None;
        let asked = self.0.ask_for(&sets::get(&[*element]), 1, |message| {
            left = sets::lasts(element, message.payload());
            Ok(())
        });
        match asked {
            Err(NetlinkError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(false)
            }
            Ok(()) if left.is_none() => Err(NftError::Differs(format!("{element:?} is listed as another"))),
            result => result.map(|()| true).map_err(NftError::from),
        }
    }

    /// Commits what `make` puts together. If that fails the kernel is asked which elements it holds.
    fn retried(
        &self,
        elements: &mut [(Element, bool)],
        make: impl Fn(&[(Element, bool)]) -> Option<FinalizedBatch>,
    ) -> Result<(), NftError> {
        for tried in 1.. {
            let Some(batch) = make(elements) else { return Ok(()) };
            match self.commit(&batch, |_| "element".into()) {
                Err(NftError::Refused { error, .. }) if tried < TRIES && is_stale(&error) => {}
                result => return result,
            }
            for (element, held) in elements.iter_mut() {
                *held = self.holds(element)?;
            }
        }
        Ok(())
    }
}

/// It is there, or it is not, otherwise than was expected.
fn is_stale(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST))
}

/// The batch that takes `gone` away and adds `new`; `None` if there is nothing to do.
fn batch(gone: &[Element], new: &[Element], ms: u64) -> Option<FinalizedBatch> {
    if gone.is_empty() && new.is_empty() {
        return None;
    }
    let mut batch = Batch::new();
    for elements in grouped(gone) {
        batch.add(&Elements(&elements, 0), MsgType::Del);
    }
    for elements in grouped(new) {
        batch.add(&Elements(&elements, ms), MsgType::Add);
    }
    Some(batch.finalize())
}

/// Those of one set together, as many as one message takes.
fn grouped(elements: &[Element]) -> Vec<Vec<Element>> {
    let of = |set: Set| elements.iter().copied().filter(move |element| element.set() == set);
    let sets = Set::ALL.map(|set| of(set).collect::<Vec<_>>());
    sets.iter().flat_map(|elements| elements.chunks(AT_ONCE)).map(<[Element]>::to_vec).collect()
}
