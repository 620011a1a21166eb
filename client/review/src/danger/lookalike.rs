//! Names that look like others, or mean another on some file systems.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;
use unicode_security::MixedScript as _;

use crate::change::Change;
use crate::error::ReviewError;
use crate::path::{FilePath, is_invisible};
use crate::trees::Trees;

/// The most names of one directory among which others are searched; in a larger one each new name is set apart.
const MAX_NAMES: usize = 200_000;

/// A component as file systems and programs may take it that ignore case, trailing dots and blanks, streams behind a
/// colon, or invisible characters (NTFS and HFS+: CVE-2014-9390, CVE-2019-1352, CVE-2021-21300).
pub fn plain(component: &[u8]) -> String {
    let text = String::from_utf8_lossy(component);
    let text = text.split(':').next().unwrap_or_default();
    let visible: String = text.chars().filter(|c| !is_invisible(*c) && !c.is_control()).collect();
    folded(visible.trim_end_matches(['.', ' ']))
}

/// Without case, also for letters that have an ASCII letter as their other case.
fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Whether a name hides something by itself, or is taken for something else: characters that are not shown, scripts
/// mixed within a word, a blank or dot at its end, a backslash, or the beginning of an option.
fn is_strange(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let hidden = text.chars().any(|c| c.is_control() || is_invisible(c));
    let mixed = text.split(|c: char| !c.is_alphabetic()).any(|word| !word.is_single_script());
    hidden || mixed || text.starts_with(['-', ' ']) || text.ends_with(['.', ' ']) || text.contains('\\')
}

/// A directory's names by what they look like.
#[derive(Debug, Default)]
struct Look {
    /// Without case: those that the session sees.
    folded: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// By the skeleton of Unicode's TR 39: those of the workspace and those that the session sees.
    skeletons: HashMap<String, Vec<Vec<u8>>>,
}

impl Look {
    /// `None` if there are more names than are looked at, or they cannot be read.
    fn of(dir: Option<&FilePath>, trees: &Trees) -> Option<Self> {
        let mut look = Self::default();
        for name in trees.merged.names(dir, MAX_NAMES).ok()? {
            let name = name.as_bytes();
            look.folded.entry(fold_bytes(name)).or_default().push(name.to_vec());
            look.skeletons.entry(skeleton(name)).or_default().push(name.to_vec());
        }
        let before = match trees.workspace.names(dir, MAX_NAMES) {
            Ok(names) => names,
            Err(ReviewError::Io { errno: Errno::NOENT | Errno::NOTDIR | Errno::LOOP, .. }) => Vec::new(),
            Err(_) => return None,
        };
        for name in before {
            let name = name.as_bytes();
            look.skeletons.entry(skeleton(name)).or_default().push(name.to_vec());
        }
        Some(look)
    }

    fn has_other(&self, name: &[u8]) -> bool {
        let other = |names: Option<&Vec<Vec<u8>>>, fits: &dyn Fn(&[u8]) -> bool| {
            names.into_iter().flatten().any(|known| known != name && fits(known))
        };
        other(self.folded.get(&fold_bytes(name)), &|_| true)
            // Letters and digits of ASCII that look alike are everyday names.
            || other(self.skeletons.get(&skeleton(name)), &|known| !known.is_ascii() || !name.is_ascii())
    }
}

fn fold_bytes(name: &[u8]) -> Vec<u8> {
    std::str::from_utf8(name).map_or_else(|_| name.to_ascii_lowercase(), |text| folded(text).into_bytes())
}

fn skeleton(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let visible: String = folded(&text).chars().filter(|c| !is_invisible(*c)).collect();
    unicode_security::skeleton(visible.trim_end_matches(['.', ' '])).collect()
}

/// A directory on the way to a change.
#[derive(Debug)]
struct Dir {
    /// Nothing at the top.
    path: Option<FilePath>,
    /// Whether its own name, or that of a directory above it, is new and deceptive.
    is_deceptive: bool,
    /// Read when a new name in it is met; nothing in it if that failed.
    look: Option<Option<Look>>,
}

/// The directories on the way to the last change that was looked at, each read once.
#[derive(Debug, Default)]
pub struct Names {
    stack: Vec<Dir>,
}

impl Names {
    /// Whether the file's name, or that of a directory on the way to it, is new and deceptive.
    pub fn is_deceptive(&mut self, change: &Change, trees: &Trees) -> bool {
        if change.before.is_some() {
            return false;
        }
        let holds = |dir: &Option<FilePath>| {
            dir.as_ref().is_none_or(|dir| change.path != *dir && change.path.is_within(dir))
        };
        while self.stack.last().is_some_and(|dir| !holds(&dir.path)) {
            self.stack.pop();
        }
        if self.stack.is_empty() {
            self.stack.push(Dir { path: None, is_deceptive: false, look: None });
        }
        let known = self.stack.last().and_then(|dir| dir.path.clone());
        let mut missing = Vec::new();
        let mut at = change.path.parent();
        while at != known {
            let Some(path) = at else { break };
            at = path.parent();
            missing.push(path);
        }
        while let Some(path) = missing.pop() {
            let is_old = matches!(trees.workspace.stat(&path), Ok(Some(_)));
            let is_deceptive = !is_old && self.deceives(&path, trees);
            self.stack.push(Dir { path: Some(path), is_deceptive, look: None });
        }
        self.deceives(&change.path, trees)
    }

    /// Whether `path`, a new name in the last directory of the stack, is deceptive, or that directory is.
    fn deceives(&mut self, path: &FilePath, trees: &Trees) -> bool {
        let Some(dir) = self.stack.last_mut() else { return true };
        let look = dir.look.get_or_insert_with(|| Look::of(dir.path.as_ref(), trees));
        dir.is_deceptive
            || is_strange(path.name())
            || look.as_ref().is_none_or(|look| look.has_other(path.name().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_name() {
        for form in [
            ".git",
            ".GIT",
            ".Git. .",
            ".g\u{200c}it",
            ".git::$INDEX_ALLOCATION",
            ".g\u{131}t",
            ".git\u{feff}",
        ] {
            assert_eq!(plain(form.as_bytes()), ".git", "{form:?}");
        }
        assert_eq!(plain("MA\u{212a}EFILE".as_bytes()), "makefile", "the Kelvin sign");
    }

    #[test]
    fn strange_names() {
        for name in ["-rf", "a\u{202e}gpj.exe", "p\u{430}ckage.json", "a ", "a.", "a\\b", "a\nb", " a"] {
            assert!(is_strange(OsStr::new(name)), "{name:?}");
        }
        for name in [
            "README",
            "caf\u{e9}.txt",
            "\u{43e}\u{442}\u{447}\u{451}\u{442}_v2.txt",
            "\u{65e5}\u{672c}\u{8a9e}\u{3060}.md",
            "a-b",
            ".x",
        ] {
            assert!(!is_strange(OsStr::new(name)), "{name:?}");
        }
    }

    #[test]
    fn looks() {
        let same = |a: &str, b: &str| skeleton(a.as_bytes()) == skeleton(b.as_bytes());
        assert!(same("config.py", "\u{441}onfig.py"), "a Cyrillic letter");
        assert!(same("caf\u{e9}", "cafe\u{301}"), "composed or not");
        assert!(same("a", "a\u{200b}"));
        assert!(!same("a", "b"));
    }
}
