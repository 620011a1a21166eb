//! What a server sends, as far as it shows that it speaks HTTP/2, and what it takes.

use super::MAX_FRAME;
use super::frame::{ACK, Frame, HEADER, SETTING, TABLE_SIZE, kind, settings};

/// Something that the reader of the client's side has to know.
pub(super) enum ServerFrame {
    /// It takes a table of so many bytes.
    Table(usize),
    /// It reads no more of a stream.
    Reset(u32),
}

/// Its side of a connection.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// The beginning of a frame: its header, and of settings all.
    held: Vec<u8>,
    /// What follows of a frame without a meaning here.
    left: usize,
    /// Whether it speaks HTTP/2, once it has sent something.
    one: Option<bool>,
}

impl Server {
    /// Whether it speaks HTTP/2, if that is known.
    pub(super) fn is_one(&self) -> Option<bool> {
        self.one
    }

    /// How many bytes follow until the end of the frame that it has begun, or of its header.
    pub(super) fn left(&self) -> usize {
        match self.held.len() {
            0 => self.left,
            held => Frame::parse(&self.held).map_or(HEADER, |frame| HEADER + frame.length) - held,
        }
    }

    /// Sees the next bytes.
    pub(super) fn observe(&mut self, mut bytes: &[u8], mut act: impl FnMut(ServerFrame)) {
        while !bytes.is_empty() && self.one != Some(false) {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = self.wanted().min(bytes.len());
            self.held.extend(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.wanted() == 0 {
                self.frame(&mut act);
            }
        }
    }

    /// How many bytes are to be held more: of settings all, of another frame its header.
    fn wanted(&self) -> usize {
        let whole = match Frame::parse(&self.held) {
            Some(frame) if is_settings(frame) => HEADER + frame.length,
            _ => HEADER,
        };
        whole - self.held.len()
    }

    fn frame(&mut self, act: &mut impl FnMut(ServerFrame)) {
        let Some(frame) = Frame::parse(&self.held) else { return };
        // RFC 9113 §3.4: settings come first.
        if self.one.is_none() {
            // What acknowledges a client's shows the same: a proxy may have passed the others on with its own answer.
            let acknowledges = frame.has(ACK) && frame.length == 0;
            self.one = Some(
                is_settings(frame) || (frame.kind == kind::SETTINGS && frame.stream == 0 && acknowledges),
            );
        }
        if is_settings(frame) {
            for (number, value) in settings(&self.held[HEADER..]) {
                if number == TABLE_SIZE {
                    act(ServerFrame::Table(usize::try_from(value).unwrap_or(usize::MAX)));
                }
            }
        } else {
            self.left = frame.length;
            if frame.kind == kind::RST_STREAM {
                act(ServerFrame::Reset(frame.stream));
            }
        }
        self.held.clear();
    }
}

fn is_settings(frame: Frame) -> bool {
    let form = frame.length.is_multiple_of(SETTING) && frame.length <= MAX_FRAME;
    frame.kind == kind::SETTINGS && frame.stream == 0 && !frame.has(ACK) && form
}
