//! Events of the egress: those that the keeper saw, and those of the relay, which are bounded and cleaned. Equal ones
//! that follow each other become one with a count.

use std::time::Instant;

use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::egress::MAX_ADDRESSES;
use agentd_policy::event::{Actor, EventBody, MAX_NAMES, NetEvent, NetPeer};

use super::super::network::WINDOW;
use super::super::spool::Spool;

/// The most characters of a name: four for each byte that is not one, and its dots.
const NAME: usize = 1024;
/// The most characters of anything else.
pub const LINE: usize = 256;

/// What is asked or refused again and again: one event with a count.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// What is being counted, with no count of its own, how many it were, and since when.
    current: Option<(NetEvent, u64, Instant)>,
}

impl Coalescer {
    /// Tells of what the relay says, as far as that is its to say: what was dialled is known here, and who asked.
    pub fn receive(&mut self, event: NetEvent, who: Option<Actor>, spool: &mut Spool) {
        match event {
            NetEvent::Connect { denied: None, .. } | NetEvent::Entered { denied: None, .. } => spool.lost(1),
            event => self.emit(cleaned(event, who), spool),
        }
    }

    /// Tells of something. Questions and denials that repeat the one before within a moment are counted.
    pub fn emit(&mut self, mut event: NetEvent, spool: &mut Spool) {
        let Some(count) = counter(&mut event).map(std::mem::take) else {
            self.flush(spool);
            spool.push(EventBody::Net(event));
            return;
        };
        if let Some((current, so_far, _)) = &mut self.current
            && *current == event
        {
            *so_far = so_far.saturating_add(count);
            return;
        }
        self.flush(spool);
        self.current = Some((event, count, Instant::now()));
    }

    /// Tells of what is being counted.
    pub fn flush(&mut self, spool: &mut Spool) {
        if let Some((mut event, count, _)) = self.current.take() {
            counter(&mut event).into_iter().for_each(|place| *place = count);
            spool.push(EventBody::Net(event));
        }
    }

    /// The same, once its window is over.
    pub fn flush_older(&mut self, now: Instant, spool: &mut Spool) {
        if self.next_flush().is_some_and(|due| due <= now) {
            self.flush(spool);
        }
    }

    /// When the window is over.
    pub fn next_flush(&self) -> Option<Instant> {
        self.current.as_ref().map(|(_, _, since)| *since + WINDOW)
    }
}

/// Where an event says how many it stands for, if it is one of those that are counted.
fn counter(event: &mut NetEvent) -> Option<&mut u64> {
    match event {
        NetEvent::Dns { count, .. }
        | NetEvent::Connect { denied: Some(_), count, .. }
        | NetEvent::Http { count, .. } => Some(count),
        _ => None,
    }
}

fn cleaned(event: NetEvent, who: Option<Actor>) -> NetEvent {
    let line = |text: String| clean(&text, LINE);
    match event {
        NetEvent::Dns { name, question, denied, allowed, mut addresses, actor: _, count } => {
            addresses.truncate(MAX_ADDRESSES);
            let (name, question) = (clean(&name, NAME), line(question));
            let (denied, allowed) = (denied.map(line), allowed.map(rule));
            NetEvent::Dns { name, question, denied, allowed, addresses, actor: who, count: count.max(1) }
        }
        NetEvent::Connect { peer, denied, actor: _, count } => {
            let (peer, denied) = (cleaned_peer(peer), denied.map(line));
            NetEvent::Connect { peer, denied, actor: who, count: count.max(1) }
        }
        NetEvent::Closed { peer, names, more_names, sent, received, duration_ms, reason } => {
            let names = names.iter().take(MAX_NAMES).map(|name| clean(name, NAME)).collect();
            let (peer, reason) = (cleaned_peer(peer), cleaned_end(reason));
            NetEvent::Closed { peer, names, more_names, sent, received, duration_ms, reason }
        }
        NetEvent::Http { peer, method, host, denied, actor: _, count } => NetEvent::Http {
            peer: cleaned_peer(peer),
            method: line(method),
            host: clean(&host, NAME),
            denied: line(denied),
            actor: who,
            count: count.max(1),
        },
        NetEvent::Entered { from, publish, denied } => {
            NetEvent::Entered { from, publish, denied: denied.map(line) }
        }
        NetEvent::Left { from, publish, sent, received, duration_ms, reason } => {
            NetEvent::Left { from, publish, sent, received, duration_ms, reason: cleaned_end(reason) }
        }
    }
}

fn cleaned_end(end: ConnectionEnd) -> ConnectionEnd {
    match end {
        ConnectionEnd::Failed(error) => ConnectionEnd::Failed(clean(&error, LINE)),
        other => other,
    }
}

/// One that allows a name can be as long as a name.
fn rule(text: String) -> String {
    clean(&text, NAME)
}

fn cleaned_peer(peer: NetPeer) -> NetPeer {
    let NetPeer { protocol, address, port, name, rule } = peer;
    let name = name.map(|name| clean(&name, NAME));
    NetPeer { protocol: clean(&protocol, LINE), address, port, name, rule: rule.map(self::rule) }
}

/// `text` in printable ASCII, everything else escaped, of at most `most` characters.
pub fn clean(text: &str, most: usize) -> String {
    let escape = |c: char| -> String {
        if c.is_ascii_graphic() || c == ' ' { c.into() } else { c.escape_default().to_string() }
    };
    text.chars().take(most).flat_map(|c| escape(c).into_bytes()).take(most).map(char::from).collect()
}

/// A type of question, by its name.
pub fn question(number: u16) -> String {
    match number {
        1 => "A".into(),
        28 => "AAAA".into(),
        other => format!("TYPE{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(name: &str) -> NetEvent {
        let (name, question) = (name.into(), "A".into());
        NetEvent::Dns {
            name,
            question,
            denied: Some("default".into()),
            allowed: None,
            addresses: vec![],
            actor: Some(Actor { pid: 1, ppid: None, exe: Some("a claim".into()) }),
            count: 1,
        }
    }

    #[test]
    fn what_the_relay_says_is_bounded_and_printable() {
        let mut spool = Spool::default();
        let mut coalescer = Coalescer::default();
        let long = "\u{1b}[2J".repeat(1000);
        coalescer.receive(dns(&long), None, &mut spool);
        let NetEvent::Dns { name, actor: None, .. } = &coalescer.current.as_ref().unwrap().0 else {
            panic!("another event")
        };
        assert!(name.len() == NAME && name.starts_with("\\u{1b}[2J\\u{1b}"), "{name}");
        assert_eq!(clean("a\nb\u{202e}ü\\", LINE), "a\\nb\\u{202e}\\u{fc}\\");
        // That something was dialled is not the relay's to say.
        let peer = NetPeer {
            protocol: "tcp".into(),
            address: [192, 0, 2, 1].into(),
            port: 1,
            name: Some(long),
            rule: None,
        };
        coalescer.receive(NetEvent::Connect { peer, denied: None, actor: None, count: 1 }, None, &mut spool);
        coalescer.flush(&mut spool);
        assert_eq!(spool.acknowledged(), 0);
    }

    #[test]
    fn denials_that_repeat_are_one_event_and_connections_are_not() {
        let connect = |port, denied: Option<&str>| {
            let (protocol, address) = ("tcp".to_owned(), [192, 0, 2, 1].into());
            let peer = NetPeer { protocol, address, port, name: None, rule: None };
            NetEvent::Connect { peer, denied: denied.map(str::to_owned), actor: None, count: 1 }
        };
        let (mut spool, mut coalescer) = (Spool::default(), Coalescer::default());
        for _ in 0..1000 {
            coalescer.receive(connect(80, Some("default")), None, &mut spool);
        }
        assert!(spool.is_empty());
        assert!(matches!(&coalescer.current, Some((NetEvent::Connect { .. }, 1000, _))));
        coalescer.receive(connect(81, Some("default")), None, &mut spool);
        assert!(!spool.is_empty());
        coalescer.emit(connect(80, None), &mut spool);
        assert!(coalescer.current.is_none());
    }

    #[test]
    fn questions_that_repeat_are_one_event() {
        let mut spool = Spool::default();
        let mut coalescer = Coalescer::default();
        for _ in 0..1000 {
            coalescer.receive(dns("a.example"), None, &mut spool);
        }
        assert!(spool.is_empty());
        coalescer.receive(dns("b.example"), None, &mut spool);
        assert!(!spool.is_empty());
        assert!(matches!(&coalescer.current, Some((NetEvent::Dns { .. }, 1, _))));
        coalescer.flush(&mut spool);
        assert!(coalescer.current.is_none() && coalescer.next_flush().is_none());
    }
}
