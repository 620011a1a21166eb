//! Commands on several sessions, one after the other.

use serde_json::json as object;

use crate::failure::Failure;
use crate::show::{clean, json, print};

/// What became of several sessions: one that fails does not keep the others from their turn.
#[derive(Debug, Default)]
pub struct All(Option<Failure>);

impl All {
    /// Prints the id, or says what failed.
    ///
    /// # Errors
    /// [`Failure::output`].
    pub fn take(&mut self, result: Result<String, Failure>, as_json: bool) -> Result<(), Failure> {
        match result {
            Ok(id) => print_id(&id, as_json),
            Err(failure) => {
                self.failed(failure);
                Ok(())
            }
        }
    }

    /// One failed. The first is kept for the end, the others are said now.
    pub fn failed(&mut self, failure: Failure) {
        match &self.0 {
            None => self.0 = Some(failure),
            Some(_) => failure.print(),
        }
    }

    /// The first failure, if there was one.
    ///
    /// # Errors
    /// The first failure itself.
    pub fn done(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Prints an id, as commands on several sessions do for each.
///
/// # Errors
/// [`Failure::output`].
pub fn print_id(id: &str, as_json: bool) -> Result<(), Failure> {
    let line = if as_json { json(&object!({ "id": id }))? } else { clean(id).into_owned() };
    print(&(line + "\n"))
}
