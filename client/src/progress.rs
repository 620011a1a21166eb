//! How far a session's streams have come, so that a new connection goes on where the last one broke off.

use std::collections::VecDeque;

use agentd_proto::v1::Attached;
use prost::bytes::{Buf, Bytes};

/// Input that is kept to be sent again: more than all the buffers on the way to the command hold.
const KEPT: usize = 4 << 20;

/// Input that was sent and is nowhere any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes of standard input were lost with the connection")]
pub struct InputLost(pub u64);

/// What has gone each way, in bytes since the session's start.
#[derive(Debug)]
pub struct Progress {
    /// Of output that came, standard output and standard error together.
    output: u64,
    /// Of output that will come once more.
    again: u64,
    /// Of input that was sent.
    input: u64,
    /// The last of it; `None` on a terminal, where nothing is typed twice.
    kept: Option<(VecDeque<Bytes>, usize)>,
}

impl Progress {
    /// As the first connection says.
    pub fn new(attached: &Attached) -> Self {
        Self {
            output: attached.output,
            again: 0,
            input: attached.input,
            kept: (!attached.terminal).then(Default::default),
        }
    }

    /// How much output came so far.
    pub fn output(&self) -> u64 {
        self.output
    }

    /// What of `bytes` has not come before.
    pub fn received(&mut self, mut bytes: Bytes) -> Bytes {
        let double = usize::try_from(self.again).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(double);
        self.again -= double as u64;
        self.output += bytes.len() as u64;
        bytes
    }

    /// Takes note of input that was sent.
    pub fn sent(&mut self, bytes: &Bytes) {
        self.input += bytes.len() as u64;
        if let Some((kept, length)) = &mut self.kept {
            kept.push_back(bytes.clone());
            *length += bytes.len();
            while let Some(first) = kept.front()
                && *length - first.len() >= KEPT
            {
                *length -= first.len();
                kept.pop_front();
            }
        }
    }

    /// Goes on with a new connection: how much output is lost, and which input has to be sent again.
    ///
    /// # Errors
    /// If input is lost.
    pub fn resume(&mut self, attached: &Attached) -> Result<(u64, Vec<Bytes>), InputLost> {
        let lost = attached.output.saturating_sub(self.output);
        self.again = self.output.saturating_sub(attached.output);
        self.output += lost;
        let Some((kept, length)) = &self.kept else {
            self.input = attached.input;
            return Ok((lost, vec![]));
        };
        let missing = self.input.saturating_sub(attached.input);
        let Some(mut skip) = (*length as u64).checked_sub(missing) else {
            return Err(InputLost(missing));
        };
        let mut send = Vec::new();
        for bytes in kept {
            let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= cut as u64;
            if cut < bytes.len() {
                send.push(bytes.slice(cut..));
            }
        }
        self.input = self.input.max(attached.input);
        Ok((lost, send))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attached(terminal: bool, output: u64, input: u64) -> Attached {
        Attached { id: "x".into(), terminal, output, input }
    }

    #[test]
    fn output_is_neither_doubled_nor_silently_lost() {
        let mut progress = Progress::new(&attached(false, 100, 0));
        assert_eq!(progress.received("abcdef".into()), "abcdef");
        assert_eq!(progress.output(), 106);
        assert_eq!(progress.resume(&attached(false, 103, 0)), Ok((0, vec![])));
        assert_eq!(progress.received("de".into()), "");
        assert_eq!(progress.received("fgh".into()), "gh");
        assert_eq!(progress.output(), 108);
        assert_eq!(progress.resume(&attached(false, 110, 0)), Ok((2, vec![])));
        assert_eq!(progress.received("k".into()), "k");
        assert_eq!(progress.output(), 111);
    }

    #[test]
    fn input_that_did_not_arrive_is_sent_again() {
        let mut progress = Progress::new(&attached(false, 0, 10));
        progress.sent(&"abc".into());
        progress.sent(&"def".into());
        assert_eq!(progress.resume(&attached(false, 0, 16)), Ok((0, vec![])));
        assert_eq!(progress.resume(&attached(false, 0, 12)), Ok((0, vec!["c".into(), "def".into()])));
        assert_eq!(progress.resume(&attached(false, 0, 13)), Ok((0, vec!["def".into()])));
        assert_eq!(progress.resume(&attached(false, 0, 9)), Err(InputLost(7)));
        // Another client's input counts too.
        assert_eq!(progress.resume(&attached(false, 0, 20)), Ok((0, vec![])));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut progress = Progress::new(&attached(false, 0, 0));
        let chunk = Bytes::from(vec![0; 64 << 10]);
        for _ in 0..100 {
            progress.sent(&chunk);
        }
        assert!(progress.kept.as_ref().unwrap().1 < KEPT + chunk.len());
        let sent = 100 * chunk.len() as u64;
        assert!(progress.resume(&attached(false, 0, sent - KEPT as u64)).is_ok());
        assert_eq!(progress.resume(&attached(false, 0, 0)), Err(InputLost(sent)));
    }

    #[test]
    fn nothing_is_typed_twice() {
        let mut progress = Progress::new(&attached(true, 0, 0));
        progress.sent(&"rm x\r".into());
        assert_eq!(progress.resume(&attached(true, 0, 0)), Ok((0, vec![])));
    }

    proptest! {
        #[test]
        fn input_arrives_once_and_in_order(
            pieces in proptest::collection::vec("[a-z]{1,9}", 1..20), taken in any::<prop::sample::Index>()
        ) {
            let all = pieces.concat();
            let mut progress = Progress::new(&attached(false, 0, 0));
            for piece in &pieces {
                progress.sent(&Bytes::copy_from_slice(piece.as_bytes()));
            }
            let taken = taken.index(all.len() + 1);
            let (_, again) = progress.resume(&attached(false, 0, taken as u64)).unwrap();
            prop_assert_eq!(again.concat(), &all.as_bytes()[taken..]);
        }
    }
}
