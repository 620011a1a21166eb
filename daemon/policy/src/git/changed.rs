//! What differs between two versions of a repository's configuration, and which of it may be carried over as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::config;

/// A variable that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name, as git-config(1) takes it.
    pub name: String,
    /// A value that is new; nothing if the variable is gone.
    pub value: Option<String>,
}

/// What `after` has and `before` has not, and the other way round, by name. `None` if one of them cannot be read.
pub fn between(before: &[u8], after: &[u8]) -> Option<Vec<Change>> {
    let (before, after) = (values(before)?, values(after)?);
    let none = BTreeSet::new();
    let mut all = Vec::new();
    for (name, values) in &after {
        let known = before.get(name).unwrap_or(&none);
        let new = values.difference(known);
        all.extend(new.map(|value| Change { name: name.clone(), value: Some(value.clone()) }));
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    all.extend(gone.map(|name| Change { name: name.clone(), value: None }));
    Some(all)
}

fn values(text: &[u8]) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for variable in config::parse(text)? {
        all.entry(variable.name()).or_default().insert(variable.value);
    }
    Some(all)
}

impl Change {
    /// Whether it can only be what `git push -u`, `git branch -u` and `git remote add` write: a branch's upstream, or
    /// where a remote is and what is fetched from it. No such value makes git run a program
    /// (gitremote-helpers(7), `ext::`; CVE-2017-1000117) or write to the caller's own branches.
    pub fn is_upstream(&self) -> bool {
        let Some(value) = &self.value else { return false };
        let (Some((section, rest)), Some((_, key))) = (self.name.split_once('.'), self.name.rsplit_once('.'))
        else {
            return false;
        };
        let named = rest.len() > key.len();
        named
            && is_plain(&self.name)
            && is_plain(value)
            && match (section, key) {
                ("branch", "remote") => value == "." || is_remote_name(value),
                ("branch", "merge") => value.starts_with("refs/heads/"),
                ("branch", "rebase") => matches!(value.as_str(), "true" | "false" | "merges"),
                ("remote", "fetch") => is_fetch(value),
                ("remote", "url") => is_remote_url(value),
                _ => false,
            }
    }
}

/// Neither empty, nor an option, nor anything but printable ASCII without blanks.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The name of a remote, and no URL or path.
fn is_remote_name(text: &str) -> bool {
    let named = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    text.bytes().all(named) && !text.starts_with('.')
}

/// Fetched references stay apart from the caller's branches.
fn is_fetch(text: &str) -> bool {
    text.trim_start_matches('+').split_once(':').is_some_and(|(from, to)| {
        from.starts_with("refs/") && ["refs/remotes/", "refs/tags/"].iter().any(|apart| to.starts_with(apart))
    })
}

/// `https://`, `ssh://` or `user@host:path`, to a host that no program takes for an option.
fn is_remote_url(text: &str) -> bool {
    let host = match text.split_once("://") {
        Some(("https" | "ssh", rest)) => rest.split('/').next().unwrap_or_default(),
        Some(_) => return false,
        None => match text.split_once(':') {
            Some((host, path)) if host.contains('@') && !path.starts_with(':') => host,
            _ => return false,
        },
    };
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    let word = |text: &str| {
        !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-~".contains(&b))
    };
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    !name.is_empty() && word(name) && word(user) && port.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str, value: &str) -> bool {
        Change { name: name.into(), value: Some(value.into()) }.is_upstream()
    }

    #[test]
    fn what_differs_is_told_by_name() {
        let before = b"[core]\n\tbare = false\n[remote \"o\"]\n\turl = https://a/x\n\tfetch = +refs/heads/*:refs/remotes/o/*\n[user]\n\tname = A\n";
        let after = b"[core]\n\tbare = false\n\tfsmonitor = ./x\n[remote \"o\"]\n\turl = https://b/x\n\tfetch = +refs/heads/*:refs/remotes/o/*\n[branch \"a.B\"]\n\tremote = o\n";
        let found: Vec<_> = between(before, after).unwrap().into_iter().map(|c| (c.name, c.value)).collect();
        let set = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(
            found,
            [
                set("branch.a.B.remote", "o"),
                set("core.fsmonitor", "./x"),
                set("remote.o.url", "https://b/x"),
                ("user.name".to_owned(), None),
            ]
        );
    }

    #[test]
    fn only_an_upstream_is_carried_over_as_it_is() {
        for (name, value) in [
            ("branch.main.remote", "origin"),
            ("branch.a.b/c.merge", "refs/heads/a"),
            ("branch.main.rebase", "true"),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
            ("remote.origin.url", "https://user@example.org:8443/x.git"),
            ("remote.origin.url", "git@example.org:x/y.git"),
            ("remote.origin.url", "ssh://git@example.org/x"),
        ] {
            assert!(upstream(name, value), "{name} {value}");
        }
        for (name, value) in [
            ("core.fsmonitor", "./x"),
            ("branch.remote", "origin"),
            ("branch.main.remote", "ext::sh -c x"),
            ("branch.main.remote", "../evil"),
            ("branch.main.remote", "https://evil.example/"),
            ("branch.main.rebase", "interactive;x"),
            ("branch.main.merge", "refs/heads/a b"),
            ("branch.main.merge", "--upload-pack=x"),
            ("remote.o.fetch", "+refs/heads/*:refs/heads/*"),
            ("remote.o.url", "ext::sh -c id"),
            ("remote.o.url", "http://plain.example/x"),
            ("remote.o.url", "/srv/x.git"),
            ("remote.o.url", "ssh://-oProxyCommand=x/y"),
            ("remote.o.url", "ssh://u@-oProxyCommand=x/y"),
            ("remote.o.url", "-oProxyCommand=x@h:y"),
            ("remote.o.url", "a@b::c"),
            ("remote.o.url", "https://example.org/\u{202e}x"),
            ("remote.o.pushurl", "https://example.org/x"),
            ("remote.o.uploadpack", "x"),
            ("alias.st", "!id"),
        ] {
            assert!(!upstream(name, value), "{name} {value}");
        }
        assert!(!Change { name: "remote.o.url".into(), value: None }.is_upstream());
    }
}
