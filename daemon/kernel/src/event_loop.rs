//! One thread that waits for many descriptors (`epoll(7)`). Each is watched under a token of the caller's type, which
//! its events bring back.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData};
use rustix::io::Errno;

pub use rustix::event::epoll::EventFlags;

/// How many bits of an event a token's number has.
const NUMBER_BITS: u32 = 56;

/// What an event is about: the kind of its source, and which one of that kind.
pub trait Token: Copy {
    /// Its kind and its number, of which the upper eight bits are lost.
    fn to_parts(self) -> (u8, u64);
    /// The token of these parts; `None` if there is none.
    fn from_parts(kind: u8, number: u64) -> Option<Self>;
}

/// An epoll instance whose events carry tokens of type `T`.
#[derive(Debug)]
pub struct EventLoop<T> {
    epoll: OwnedFd,
    /// The most events that one turn takes.
    most: usize,
    token: PhantomData<fn() -> T>,
}

impl<T: Token> EventLoop<T> {
    /// Watches nothing yet, and will take at most `most` events in a turn.
    ///
    /// # Errors
    /// As `epoll_create1(2)`.
    pub fn new(most: usize) -> rustix::io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, most, token: PhantomData })
    }

    /// Watches `source` for `events`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)` with `EPOLL_CTL_ADD`.
    pub fn add(&self, source: impl AsFd, token: T, events: EventFlags) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, source, data(token), events)
    }

    /// Changes what `source` is watched for.
    ///
    /// # Errors
    /// As `epoll_ctl(2)` with `EPOLL_CTL_MOD`.
    pub fn modify(&self, source: impl AsFd, token: T, events: EventFlags) -> rustix::io::Result<()> {
        epoll::modify(&self.epoll, source, data(token), events)
    }

    /// Watches `source` no longer. A closed descriptor needs this only while another process has the same open file.
    ///
    /// # Errors
    /// As `epoll_ctl(2)` with `EPOLL_CTL_DEL`: `ENOENT` if it is not watched.
    pub fn remove(&self, source: impl AsFd) -> rustix::io::Result<()> {
        epoll::delete(&self.epoll, source)
    }

    /// Waits for events, at most for `timeout`; for ever without one. Nothing if a signal interrupts it.
    ///
    /// # Errors
    /// As `epoll_pwait2(2)`.
    pub fn wait(&self, timeout: Option<&Timespec>) -> rustix::io::Result<Vec<T>> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(self.most);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(events.iter().filter_map(|event| token(event.data.u64())).collect())
    }
}

impl<T> AsFd for EventLoop<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn data<T: Token>(token: T) -> EventData {
    let (kind, number) = token.to_parts();
    EventData::new_u64((u64::from(kind) << NUMBER_BITS) | (number & ((1 << NUMBER_BITS) - 1)))
}

fn token<T: Token>(data: u64) -> Option<T> {
    T::from_parts((data >> NUMBER_BITS) as u8, data & ((1 << NUMBER_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Source {
        Alone,
        Many(u64),
    }

    impl Token for Source {
        fn to_parts(self) -> (u8, u64) {
            match self {
                Self::Alone => (0, 0),
                Self::Many(number) => (255, number),
            }
        }

        fn from_parts(kind: u8, number: u64) -> Option<Self> {
            match kind {
                0 => Some(Self::Alone),
                255 => Some(Self::Many(number)),
                _ => None,
            }
        }
    }

    #[test]
    fn an_event_brings_its_token_back() {
        let waiting = EventLoop::new(4).unwrap();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (reader, mut writer) = std::io::pipe().unwrap();
        let number = (1 << NUMBER_BITS) - 1;
        waiting.add(&reader, Source::Many(number), EventFlags::IN).unwrap();
        assert_eq!(waiting.wait(Some(&now)).unwrap(), []);
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        assert_eq!(waiting.wait(None).unwrap(), [Source::Many(number)]);
        waiting.modify(&reader, Source::Alone, EventFlags::IN).unwrap();
        assert_eq!(waiting.wait(None).unwrap(), [Source::Alone]);
        waiting.remove(&reader).unwrap();
        assert_eq!(waiting.wait(Some(&now)).unwrap(), []);
        assert_eq!(waiting.remove(&reader), Err(Errno::NOENT));
    }

    #[test]
    fn a_turn_takes_no_more_than_it_may() {
        let waiting = EventLoop::new(2).unwrap();
        let pipes: Vec<_> = (0..4).map(|_| std::io::pipe().unwrap()).collect();
        for (number, (_, writer)) in pipes.iter().enumerate() {
            waiting.add(writer, Source::Many(number as u64), EventFlags::OUT).unwrap();
        }
        assert_eq!(waiting.wait(None).unwrap().len(), 2);
    }
}
