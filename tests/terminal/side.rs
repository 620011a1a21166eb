//! The same program twice, side by side: as it is, and in a session.

use std::path::PathBuf;

use agentd_tests::harness::{Session, Tmux, World, within};
use std::time::Duration;

/// Rows and columns of every terminal here.
pub(crate) const SIZE: (u16, u16) = (24, 80);
/// How long both may take to show the same.
const SCREEN_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Sides {
    pub(crate) direct: Tmux,
    pub(crate) confined: Tmux,
    /// The session's name.
    pub(crate) name: String,
}

impl Sides {
    /// Runs `command` in `cwd` twice.
    pub(crate) fn start(world: &World, cwd: PathBuf, command: &[&str]) -> Self {
        let user = world.a();
        let mut direct = user.command(command[0]);
        direct.args(&command[1..]).current_dir(&cwd);
        let session = Session::new(world, user, cwd);
        let confined = session.command(command);
        Self {
            direct: Tmux::start(&direct, SIZE.0, SIZE.1),
            confined: Tmux::start(&confined, SIZE.0, SIZE.1),
            name: session.name().to_owned(),
        }
    }

    fn both(&self) -> [&Tmux; 2] {
        [&self.direct, &self.confined]
    }

    /// Presses keys on both.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.both().iter().for_each(|side| side.keys(keys));
    }

    /// Types on both.
    pub(crate) fn types(&self, text: &str) {
        self.both().iter().for_each(|side| side.types(text));
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.both().iter().for_each(|side| side.resize(rows, cols));
    }

    /// Waits until both show `text`, and the same screen.
    #[track_caller]
    pub(crate) fn same(&self, text: &str) {
        self.same_but(text, str::to_owned);
    }

    /// The same, of what is left of a screen by `of`.
    #[track_caller]
    pub(crate) fn same_but(&self, text: &str, of: impl Fn(&str) -> String) {
        self.wait(text, |shown| shown.contains(text));
        same_screens(&self.direct, &self.confined, of);
    }

    /// Waits until the text on both is so.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, so: impl Fn(&str) -> bool) {
        self.direct.wait(&format!("without agentd, {what}"), &so);
        self.confined.wait(&format!("with agentd, {what}"), &so);
    }

    /// Waits until both have ended.
    #[track_caller]
    pub(crate) fn end(&self, code: i32) {
        assert_eq!(self.direct.wait_for_end(), code, "without agentd");
        assert_eq!(self.confined.wait_for_end(), code, "with agentd");
    }
}

/// Waits until two terminals show the same.
#[track_caller]
pub(crate) fn same_screens(one: &Tmux, other: &Tmux, of: impl Fn(&str) -> String) {
    let same = within(SCREEN_TIMEOUT, || {
        let (one, other) = (one.screen(), other.screen());
        if of(&one) == of(&other) { Ok(()) } else { Err((one, other)) }
    });
    if let Err((one, other)) = same {
        panic!("the screens differ; one:\n{}\nthe other:\n{}", of(&one), of(&other));
    }
}
