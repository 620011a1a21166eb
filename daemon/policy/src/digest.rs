//! SHA-256 of what two processes compare.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Refusal;
use crate::rule::Rule;

/// SHA-256 of a value as the wire has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `value`.
    ///
    /// # Errors
    /// If it has a form that the wire cannot carry.
    pub fn of<T: Serialize>(value: &T) -> Result<Self, Refusal> {
        let bytes = postcard::to_stdvec(value).map_err(|error| {
            Refusal::new(format!("the request: {error}"), Rule::ConsentForm, "ask for something simpler")
        })?;
        Ok(Self(Sha256::digest(bytes).into()))
    }
}
