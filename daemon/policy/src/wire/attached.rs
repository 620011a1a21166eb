//! The descriptors beside a message.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;

use super::{WireError, decode};

/// A message that says how many descriptors travel beside it.
pub trait Message: DeserializeOwned {
    /// The fewest and the most.
    fn descriptors(&self) -> RangeInclusive<usize>;
}

/// The message in `packet`, with the descriptors that came beside it.
///
/// # Errors
/// As [`decode`]; if there are not as many descriptors as [`Message::descriptors`] says.
pub fn decode_with<M: Message, F>(packet: &[u8], descriptors: Vec<F>) -> Result<(M, Attached<F>), WireError> {
    let message: M = decode(packet)?;
    if !message.descriptors().contains(&descriptors.len()) {
        return Err(WireError::Descriptors);
    }
    Ok((message, Attached::new(descriptors)))
}

/// The descriptors that came with a message, which its receiver takes one by one in the order that the message defines.
/// Too few or too many make the message malformed, as bytes missing or left over do.
#[derive(Debug)]
pub struct Attached<F>(std::vec::IntoIter<F>);

impl<F> Attached<F> {
    /// Those of one packet.
    pub fn new(descriptors: Vec<F>) -> Self {
        Self(descriptors.into_iter())
    }

    /// The next one.
    ///
    /// # Errors
    /// [`WireError::Descriptors`] if there is none.
    pub fn one(&mut self) -> Result<F, WireError> {
        self.0.next().ok_or(WireError::Descriptors)
    }

    /// The next one, of a message that says whether it has it.
    ///
    /// # Errors
    /// As [`Attached::one`].
    pub fn one_if(&mut self, present: bool) -> Result<Option<F>, WireError> {
        present.then(|| self.one()).transpose()
    }

    /// The next `N`.
    ///
    /// # Errors
    /// [`WireError::Descriptors`] if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[F; N], WireError> {
        let next: Vec<F> = self.0.by_ref().take(N).collect();
        next.try_into().map_err(|_| WireError::Descriptors)
    }

    /// All that are left.
    pub fn rest(self) -> Vec<F> {
        self.0.collect()
    }

    /// Nothing more belongs to the message.
    ///
    /// # Errors
    /// [`WireError::Descriptors`] if there are more.
    pub fn finish(mut self) -> Result<(), WireError> {
        self.0.next().map_or(Ok(()), |_| Err(WireError::Descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_and_too_many_are_errors() {
        let mut three = Attached::new(vec![1, 2, 3]);
        assert_eq!(three.one().unwrap(), 1);
        assert_eq!(three.one_if(false).unwrap(), None);
        assert_eq!(three.array::<2>().unwrap(), [2, 3]);
        assert!(matches!(three.one_if(true), Err(WireError::Descriptors)));
        assert!(matches!(Attached::new(vec![1]).array::<2>(), Err(WireError::Descriptors)));
        assert!(matches!(Attached::new(vec![1]).finish(), Err(WireError::Descriptors)));
        Attached::<u8>::new(vec![]).finish().unwrap();
    }
}
