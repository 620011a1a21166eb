//! A question in its one spelling, for tables.

use agentd_policy::hosts::HostName;
use hickory_proto::rr::RecordType;

use super::MAX_WIRE_NAME;

/// The name as in a message, in lower case, and the type's number: what is asked in two ways and means the same has the
/// same key.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; MAX_WIRE_NAME + 2],
    length: usize,
}

impl Key {
    /// Of a name and a type.
    pub fn new(name: &HostName, kind: RecordType) -> Self {
        let mut key = Self { bytes: [0; MAX_WIRE_NAME + 2], length: 0 };
        for label in name.labels() {
            key.push(&[super::label_length(label.as_bytes())]);
            key.push(label.as_bytes());
        }
        key.push(&[0]);
        key.push(&u16::from(kind).to_be_bytes());
        key
    }

    /// Of the same as in a message, in any case: a length is no letter, it is below 64.
    pub(super) fn of_wire(name: &[u8], kind: RecordType) -> Self {
        let mut key = Self { bytes: [0; MAX_WIRE_NAME + 2], length: 0 };
        key.push(name);
        key.bytes[..key.length].make_ascii_lowercase();
        key.push(&u16::from(kind).to_be_bytes());
        key
    }

    /// The key as bytes, for maps and comparisons.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}
