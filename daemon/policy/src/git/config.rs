//! What a repository's configuration leads to: other files of configuration, hooks, programs (git-config(1)).

/// The most variables that are read.
const MAX_VALUES: usize = 10_000;

/// A variable of git's.
#[derive(Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its section, in lower case.
    pub section: String,
    /// The section's second part, as it is written: a remote's or a branch's name.
    pub subsection: Option<String>,
    /// Its key, in lower case.
    pub key: String,
    /// Its value; empty for one without.
    pub value: String,
}

impl Variable {
    /// Its name as git-config(1) takes it.
    pub fn name(&self) -> String {
        match &self.subsection {
            Some(subsection) => format!("{}.{subsection}.{}", self.section, self.key),
            None => format!("{}.{}", self.section, self.key),
        }
    }
}

/// The variables in `text`. `None` if there are more than anybody has.
pub fn parse(text: &[u8]) -> Option<Vec<Variable>> {
    let text = String::from_utf8_lossy(text);
    let mut all = Vec::new();
    let mut section = (String::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut rest = line.trim_start_matches('\u{feff}').trim();
        if let Some(head) = rest.strip_prefix('[') {
            // `]` may stand in the quoted name of a subsection.
            let (names, after) = header(head);
            section = names;
            rest = after.trim();
        }
        if rest.is_empty() || rest.starts_with(['#', ';']) {
            continue;
        }
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        let mut raw = value.trim().to_owned();
        // A line that ends in a backslash goes on.
        while raw.ends_with('\\') && !raw.ends_with("\\\\") {
            raw.pop();
            match lines.next() {
                Some(more) => raw.push_str(more),
                None => break,
            }
        }
        all.push(Variable {
            section: section.0.clone(),
            subsection: section.1.clone(),
            key: key.trim().to_ascii_lowercase(),
            value: unquote(&raw),
        });
        if all.len() > MAX_VALUES {
            return None;
        }
    }
    Some(all)
}

/// `text` without passwords in URLs and without headers that are sent along (`http.extraHeader`), which often hold a
/// token. `None` if it is no text, or a line of it cannot be distinguished from another.
pub fn without_secrets(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut dropped = false;
    let mut goes_on = false;
    for line in text.split_inclusive('\n') {
        // The rest of a value goes where its beginning went.
        dropped = if goes_on { dropped } else { is_header(line) };
        goes_on = line.trim_end_matches(['\n', '\r']).ends_with('\\');
        if !dropped {
            out.push_str(&without_passwords(line));
        }
    }
    Some(out.into_bytes())
}

/// Whether a line gives a header to send along; it may begin with its section.
fn is_header(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.split(['=', ']']).any(|part| part.trim() == "extraheader")
}

/// Takes `user:password@` out of each URL of a line, but the user.
fn without_passwords(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '"').unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                out.push_str(&format!("{user}@{host}"));
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// The names of the section that `head` begins, after its `[`, and what follows its `]`.
fn header(head: &str) -> ((String, Option<String>), &str) {
    let mut quoted = false;
    let mut escaped = false;
    let end = head.find(|c| {
        let closes = c == ']' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        closes
    });
    let (inside, after) = end.map_or((head, ""), |end| (&head[..end], &head[end + 1..]));
    let cut = inside.find(['"', ' ', '\t', '.']).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(cut);
    let subsection = match rest.trim_start() {
        "" => None,
        // The old form: case means nothing in it.
        rest if rest.starts_with('.') => Some(rest.trim_start_matches('.').to_ascii_lowercase()),
        rest => {
            let quoted = rest.strip_prefix('"').unwrap_or(rest);
            let quoted = quoted.strip_suffix('"').unwrap_or(quoted);
            let (mut name, mut chars) = (String::new(), quoted.chars());
            while let Some(c) = chars.next() {
                // A backslash stands for what follows it, whatever that is.
                name.extend(if c == '\\' { chars.next() } else { Some(c) });
            }
            Some(name)
        }
    };
    ((name.to_ascii_lowercase(), subsection), after)
}

fn unquote(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let (mut quoted, mut chars) = (false, raw.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String, String)> {
        parse(text.as_bytes()).unwrap().into_iter().map(|v| (v.section, v.key, v.value)).collect()
    }

    fn triple(section: &str, key: &str, value: &str) -> (String, String, String) {
        (section.into(), key.into(), value.into())
    }

    #[test]
    fn what_git_reads_is_read() {
        let text = "# x\n[core]\n\thooksPath = .husky/_ ; why\n[includeIf \"gitdir:a]b\"] path = \"../x y\"\n\
                    [Alias]\n\tst = !./run \\\n  more\n[filter.lfs]\n\tclean=git-lfs clean \"a # b\"\n bare\n";
        assert_eq!(
            values(text),
            [
                triple("core", "hookspath", ".husky/_"),
                triple("includeif", "path", "../x y"),
                triple("alias", "st", "!./run   more"),
                triple("filter", "clean", "git-lfs clean a # b"),
                triple("filter", "bare", ""),
            ]
        );
    }

    #[test]
    fn secrets_are_left_out() {
        let text = "[remote \"o\"]\n\turl = https://user:pass@example.org/x.git\n\tpushurl=ssh://git@example.org/y\n\
                    [http \"https://example.org/\"]\n\textraHeader = AUTHORIZATION: basic \\\n c2VjcmV0\n\tproxy = http://p:secret@proxy:1\n\
                    [http] extraheader=X: secret\n[core]\n\tbare = false\n";
        let left = String::from_utf8(without_secrets(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            left,
            "[remote \"o\"]\n\turl = https://user@example.org/x.git\n\tpushurl=ssh://git@example.org/y\n\
             [http \"https://example.org/\"]\n\tproxy = http://p@proxy:1\n[core]\n\tbare = false\n"
        );
        assert_eq!(without_secrets(&[0xff]), None);
    }

    #[test]
    fn nonsense_is_bounded() {
        assert_eq!(parse(&b"a=b\n".repeat(MAX_VALUES + 1)), None);
        assert!(parse(b"[\n[\"\\\n=\\").is_some());
        assert!(parse(&[0xff; 1000]).is_some());
    }
}
