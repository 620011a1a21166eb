//! Which files of a session's workspaces a command line names.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agentd_policy::names::AbsPath;
use agentd_policy::rule::Rule;
use agentd_review::path::{FilePath, escaped};

use crate::failure::Failure;

/// What of one workspace is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Nothing of it.
    Nothing,
    /// All of it.
    All,
    /// These files, and what is below them.
    Within(Vec<FilePath>),
}

impl Selection {
    /// Whether `path` is meant.
    pub fn has(&self, path: &FilePath) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Within(paths) => paths.iter().any(|dir| path.is_within(dir)),
        }
    }

    fn add(&mut self, path: Option<FilePath>) {
        match (path, &mut *self) {
            (None, _) => *self = Self::All,
            (Some(_), Self::All) => {}
            (Some(path), Self::Within(paths)) => paths.push(path),
            (Some(path), Self::Nothing) => *self = Self::Within(vec![path]),
        }
    }
}

/// What `paths` mean of each of `workspaces`: all, if there are none. A path that is relative is so to `cwd` if that is
/// in a workspace, else to the only workspace. `.` and `..` are taken by name; no link is followed.
///
/// # Errors
/// If a path is in no workspace.
pub fn select(workspaces: &[&AbsPath], cwd: &Path, paths: &[OsString]) -> Result<Vec<Selection>, Failure> {
    if paths.is_empty() {
        return Ok(vec![Selection::All; workspaces.len()]);
    }
    let within = |path: &[u8]| {
        // Of two workspaces of which one is in the other, the inner one.
        let found = workspaces.iter().enumerate().filter_map(|(at, top)| Some((at, below(top, path)?)));
        found.min_by_key(|(_, rest)| rest.len())
    };
    let here = normal(cwd.as_os_str().as_bytes(), b"");
    let base = match (within(&here), workspaces) {
        (None, [only]) => only.as_str().as_bytes().to_vec(),
        _ => here,
    };
    let mut all = vec![Selection::Nothing; workspaces.len()];
    for path in paths {
        let whole = normal(&base, path.as_bytes());
        let elsewhere = || {
            let known: Vec<_> = workspaces.iter().map(|top| top.as_str()).collect();
            let hint = format!("its workspaces: {}", known.join(", "));
            Failure::refused(
                format!("{}, of none of its workspaces", escaped(path.as_bytes())),
                Rule::ReviewPath,
                hint,
            )
        };
        let (at, rest) = within(&whole).ok_or_else(elsewhere)?;
        let rest = match rest.is_empty() {
            true => None,
            false => Some(FilePath::parse(&rest).map_err(|_| elsewhere())?),
        };
        if let Some(selection) = all.get_mut(at) {
            selection.add(rest);
        }
    }
    Ok(all)
}

/// `path` below `top`; empty if it is `top` itself.
fn below(top: &AbsPath, path: &[u8]) -> Option<Vec<u8>> {
    let rest = match top.as_str() {
        "/" => path,
        top => path.strip_prefix(top.as_bytes())?,
    };
    match rest.split_first() {
        None => Some(Vec::new()),
        Some((b'/', rest)) => Some(rest.to_vec()),
        Some(_) => None,
    }
}

/// `path`, if it is relative below `base`, as an absolute one without `.`, `..` and doubled slashes.
fn normal(base: &[u8], path: &[u8]) -> Vec<u8> {
    let whole = if path.starts_with(b"/") { path.to_vec() } else { [base, b"/", path].concat() };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in whole.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    [b"/", parts.join(&b'/').as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(cwd: &str, paths: &[&str]) -> Result<Vec<Selection>, Failure> {
        let tops = ["/home/u/p", "/home/u/p/lib", "/srv"].map(|top| AbsPath::parse(top).unwrap());
        let paths: Vec<_> = paths.iter().map(OsString::from).collect();
        select(&tops.each_ref(), Path::new(cwd), &paths)
    }

    fn within(path: &str) -> Selection {
        Selection::Within(vec![FilePath::parse(path.as_bytes()).unwrap()])
    }

    #[test]
    fn paths_are_as_they_are_from_here() {
        use Selection::{All, Nothing};
        assert_eq!(chosen("/", &[]).unwrap(), [All, All, All]);
        assert_eq!(chosen("/home/u/p/src", &["a.c"]).unwrap(), [within("src/a.c"), Nothing, Nothing]);
        assert_eq!(chosen("/home/u/p/src", &["../lib/./x//y"]).unwrap(), [Nothing, within("x/y"), Nothing]);
        assert_eq!(chosen("/home/u/p", &["lib"]).unwrap(), [Nothing, All, Nothing]);
        assert_eq!(chosen("/", &["/srv/"]).unwrap(), [Nothing, Nothing, All]);
        assert!(chosen("/home/u", &["x"]).is_err() && chosen("/home/u/p", &["../pp"]).is_err());
    }

    #[test]
    fn from_elsewhere_they_are_of_the_only_workspace() {
        let top = AbsPath::parse("/srv/p").unwrap();
        let selection = select(&[&top], Path::new("/root"), &["src/a".into()]).unwrap();
        assert_eq!(selection, [within("src/a")]);
        assert!(select(&[&top], Path::new("/root"), &["../q".into()]).is_err());
    }
}
