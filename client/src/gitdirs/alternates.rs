//! Objects that a repository borrows from another one (`objects/info/alternates`).

use agentd_policy::git::Use;
use agentd_policy::git::read::{self, ALTERNATES, MAX_ALTERNATES};
use agentd_policy::mode::Mode;
use agentd_policy::names::AbsPath;

use super::look::{Dir, Why};
use super::{Finder, Held, store};
use crate::show::word;

/// How far alternates of alternates are followed (git's own bound).
const MAX_DEPTH: usize = 5;

impl Finder<'_> {
    /// What `objects`, which a workspace in that mode uses, are borrowed from.
    pub(super) fn alternates(&mut self, objects: &Dir, mode: Mode, depth: usize) {
        let text = match objects.read("info/alternates", MAX_ALTERNATES) {
            Ok(text) => text,
            Err(Why::Missing) => return,
            Err(why) => {
                let file = objects.join("info/alternates").unwrap_or_else(|| objects.path.clone());
                return self.note(&file, &why.to_string());
            }
        };
        let (all, whole) = read::alternates(&text, &objects.path);
        if !whole {
            let file = objects.join("info/alternates").unwrap_or_else(|| objects.path.clone());
            self.found.notes.push(format!("git: not every line of {} is followed", word(file.as_str())));
        }
        for path in all {
            if mode == Mode::Direct {
                self.borrowed.push(path.clone());
            }
            if self.is_covered(&path) || self.found.places.contains_key(&path) {
                continue;
            }
            let count = self.found.places.values().filter(|held| held.used == Use::Read).count();
            if depth >= MAX_DEPTH || count >= ALTERNATES {
                self.note(&path, "is one alternate too many");
                continue;
            }
            let store = Dir::open(&path).and_then(|dir| Ok((store::only_objects(&dir)?, dir)));
            match store {
                Ok((true, dir)) => {
                    let why = format!("an alternate of {}", word(objects.path.as_str()));
                    // Nothing there names the workspace: that it is read is said each time.
                    self.found.notes.push(format!("git: {} is read, {why}", word(path.as_str())));
                    self.alternates(&dir, mode, depth + 1);
                    self.add_dir(dir, Use::Read, &why);
                }
                Ok((false, _)) => self.note(&path, "is named as an alternate and holds more than objects"),
                Err(why) => self.note(&path, &why.to_string()),
            }
        }
    }

    /// A repository in mode `direct` needs the objects that it borrows as they are outside: git writes none that it
    /// finds there, and a copy ends with the session. What another workspace would have them copied for is left out.
    pub(super) fn real_objects(&mut self) {
        for store in std::mem::take(&mut self.borrowed) {
            let copied = |held: &Held| matches!(held.used, Use::Work(_, Mode::Overlay));
            let of_it = self
                .found
                .places
                .iter()
                .filter(|(path, held)| matches!(held.used, Use::Work(..)) && store.starts_with(path));
            let around = of_it.max_by_key(|(path, _)| path.as_str().len());
            let copy = around.filter(|(_, held)| copied(held)).map(|(path, _)| path.clone());
            let workspace =
                self.workspaces.iter().any(|(w, mode)| *mode == Mode::Overlay && store.starts_with(w));
            if let Some(path) = &copy {
                self.found.places.remove(path);
            }
            if copy.is_some() || workspace {
                let (store, path) =
                    (word(store.as_str()), copy.as_ref().map_or("a workspace", AbsPath::as_str));
                self.found.notes.push(format!(
                    "git: objects in {store} are borrowed by a workspace in mode direct and would be copied with {}: use one mode \
                     for both",
                    word(path)
                ));
            }
        }
    }
}
