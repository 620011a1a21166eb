//! What we ask a resolver: the name that was judged, and nothing else of the agent's.

use agentd_policy::hosts::HostName;
use hickory_proto::rr::RecordType;

use super::{HEADER, IN, MAX_DATAGRAM, flag, label_length};

/// A question of ours, to one resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub(super) name: HostName,
    pub(super) kind: RecordType,
    pub(super) message: Vec<u8>,
    /// How long header and question are: a reply to it begins with the same question.
    pub(super) asked: usize,
}

impl Question {
    /// Asks for `name`. `id` and `case` are random: a forged reply has to hit the one, and the case in which the
    /// name's letters are written by the other (draft-vixie-dnsext-dns0x20). With `case` all zero they are lower.
    pub fn new(name: HostName, kind: RecordType, id: u16, case: [u8; 32]) -> Self {
        let mut message = Vec::with_capacity(HEADER + name.as_str().len() + 17);
        message.extend(id.to_be_bytes());
        message.extend(flag::RECURSION_DESIRED.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0, 0, 1]);
        for label in name.labels() {
            message.push(label_length(label.as_bytes()));
            message.extend(label.as_bytes());
        }
        message.push(0);
        for (place, byte) in message[HEADER..].iter_mut().enumerate() {
            // A length is no letter: it is below 64.
            if case[place / 8] >> (place % 8) & 1 == 1 {
                byte.make_ascii_uppercase();
            }
        }
        message.extend(u16::from(kind).to_be_bytes());
        message.extend(IN.to_be_bytes());
        let asked = message.len();
        message.extend([0, 0, 41]);
        message.extend(MAX_DATAGRAM.to_be_bytes());
        message.extend([0; 6]);
        Self { name, kind, message, asked }
    }

    /// As long as most others are (RFC 7830, RFC 8467): for an encrypted stream, and whose lengths would
    /// show what is asked.
    #[must_use]
    pub fn padded(mut self) -> Self {
        const BLOCK: usize = 128;
        const PADDING: u16 = 12;
        const OPTION: u16 = 4;
        let length = self.message.len() + usize::from(OPTION);
        let zeros = u16::try_from(length.next_multiple_of(BLOCK) - length).unwrap_or(0);
        // The length of the OPT record's data is the last that was written.
        self.message.truncate(self.message.len() - 2);
        for word in [OPTION + zeros, PADDING, zeros] {
            self.message.extend(word.to_be_bytes());
        }
        self.message.resize(length + usize::from(zeros), 0);
        self
    }

    /// The message, without the length that TCP has in front.
    pub fn message(&self) -> &[u8] {
        &self.message
    }
}
