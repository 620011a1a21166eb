//! Whether a connection's first bytes are HTTP.

/// The longest first line of text, with what is before it.
const MAX_LINE: usize = 16 << 10;
/// What PROXY protocol 2 begins with.
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A version of HTTP begins so.
const HTTP: &[u8] = b"http/";
/// The field that names a request's host, in a line of its own.
const HOST: &[u8] = b"\nhost:";
/// Methods that clients of HTTP use (RFC 9110, 5789, 4918), and first words that are read like them.
const METHODS: [&[u8]; 19] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PRI",
    b"PROXY",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
];
/// The longest first line that any server reads: the most that Envoy can be configured to, and eight times what Go
/// takes.
const MAX_FIRST: usize = 8 << 20;
/// How far behind a first line that could be a request's that field is looked for.
const MAX_BEHIND: usize = 128 << 10;

/// What the first bytes are.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// Not known. Who stops waiting here must refuse.
    NeedMore,
    /// What some server reads as a request, if not a good one.
    Http,
    /// A header of the PROXY protocol: what follows is another connection's beginning.
    Proxied,
    /// No request yet, but some servers take any byte for a part of a method or a target, and any three words for a
    /// request: it may go on, and each further byte is [`Watch`]'s to see first.
    Binary,
    /// A protocol other than HTTP.
    Other,
    /// A first line without an end.
    TooLong,
}

/// Looks at the first bytes of a connection, all of them at each call. What any server could take for a request is
/// HTTP: empty lines or blanks before it, blanks of any kind and number between its parts, HTTP/0.9's GET without a
/// version, another protocol's version in its place (llhttp reads RTSP's and ICE's), a path or an address behind any
/// word (Apache before 2.4.25 does without a version). Protocols with other lines do not have these.
pub fn sniff(input: &[u8]) -> Sniff {
    let Some(begin) = input.iter().position(|byte| !is_blank(*byte)) else {
        return if input.len() < MAX_LINE { Sniff::NeedMore } else { Sniff::TooLong };
    };
    let rest = &input[begin..];
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.unwrap_or(rest.len())];
    let word = |word: &[u8]| {
        line.len() > word.len() && line[..word.len()].eq_ignore_ascii_case(word) && is_blank(line[word.len()])
    };
    if word(b"get") || line.windows(HTTP.len()).any(|part| part.eq_ignore_ascii_case(HTTP)) {
        return Sniff::Http;
    }
    if word(b"proxy") || input.starts_with(PROXY_2) {
        return Sniff::Proxied;
    }
    if PROXY_2.starts_with(input) {
        return Sniff::NeedMore;
    }
    let text = !line.iter().any(|byte| matches!(byte, 0..=8 | 0x0e..=0x1b | 0x7f));
    match end {
        Some(_) if text && is_request(line) => Sniff::Http,
        Some(_) => Watch::default().see(rest),
        None if !text => Sniff::Binary,
        None if input.len() < MAX_LINE => Sniff::NeedMore,
        None => Sniff::TooLong,
    }
}

/// Whether a line has a target behind its first word, or a version of anything behind that.
fn is_request(line: &[u8]) -> bool {
    let mut words = line.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty()).skip(1);
    let name = |word: &[u8]| word.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let is_target = |word: &[u8]| word.starts_with(b"/") || word[name(word)..].starts_with(b"://");
    let is_version = |word: &[u8]| match name(word) {
        0 => false,
        name => matches!(word[name..], [b'/', b'0'..=b'9', ..]),
    };
    words.next().is_some_and(is_target) || words.any(is_version)
}

/// Whether a line without an end that is [`Sniff::NeedMore`] looks like a request that is cut short: by its method, or
/// by a target behind its first word. Of a client that waits behind anything else it is known that it has another
/// protocol, in which a line needs no end.
pub fn looks_cut(input: &[u8]) -> bool {
    let begin = input.iter().position(|byte| !is_blank(*byte)).unwrap_or(input.len());
    let line = &input[begin..];
    let end = line.iter().position(|byte| is_blank(*byte));
    let word = &line[..end.unwrap_or(line.len())];
    let is_method = |method: &&[u8]| match end {
        Some(_) => word.eq_ignore_ascii_case(method),
        None => method.len() >= word.len() && word.eq_ignore_ascii_case(&method[..word.len()]),
    };
    METHODS.iter().any(is_method) || is_request(line)
}

/// What some language's "split at blanks" splits at.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// Looks on at what is no request to most servers: at its first line, as long as that has no end, and if it has three
/// words, which is enough for some, at the lines behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// How much of a version's beginning was seen last.
    version: usize,
    /// How much of [`HOST`] was seen last.
    host: usize,
    words: usize,
    in_word: bool,
    /// The first line has ended, and so many bytes came since.
    behind: Option<usize>,
    /// Bytes of the line so far; behind the first, but for a carriage return.
    line: usize,
}

impl Watch {
    /// Behind bytes that are [`Sniff::Binary`], or not known yet.
    pub fn after(input: &[u8]) -> Self {
        let mut watch = Self::default();
        // Empty lines may be before it.
        let begin = input.iter().position(|byte| !is_blank(*byte)).unwrap_or(input.len());
        let _seen = watch.see(&input[begin..]);
        watch
    }

    /// Sees the next bytes before they go on: [`Sniff::Binary`] while more has to be seen.
    pub fn see(&mut self, bytes: &[u8]) -> Sniff {
        for byte in bytes {
            match self.step(byte.to_ascii_lowercase()) {
                Sniff::Binary => {}
                seen => return seen,
            }
        }
        Sniff::Binary
    }

    fn step(&mut self, byte: u8) -> Sniff {
        self.host = match byte {
            _ if byte == HOST[self.host] => self.host + 1,
            _ => usize::from(byte == HOST[0]),
        };
        if self.host == HOST.len() {
            return Sniff::Http;
        }
        match &mut self.behind {
            None => {
                self.version = match byte {
                    _ if byte == HTTP[self.version] => self.version + 1,
                    _ => usize::from(byte == HTTP[0]),
                };
                if self.version == HTTP.len() {
                    return Sniff::Http;
                }
                self.line += 1;
                if self.line == MAX_FIRST {
                    return Sniff::Other;
                }
                if byte == b'\n' {
                    (self.behind, self.line) = (Some(0), 0);
                    return if self.words < 3 { Sniff::Other } else { Sniff::Binary };
                }
                self.words += usize::from(!is_blank(byte) && !self.in_word);
                self.in_word = !is_blank(byte);
                return Sniff::Binary;
            }
            Some(behind) => {
                *behind += 1;
                if *behind == MAX_BEHIND || (byte == b'\n' && self.line == 0) {
                    return Sniff::Other;
                }
            }
        }
        match byte {
            b'\n' => self.line = 0,
            b'\r' => {}
            _ => self.line += 1,
        }
        Sniff::Binary
    }
}
