//! A terminal with a screen: one tmux server with one pane.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::host::within;

/// Longer than anything takes that is waited for.
const SCREEN_TIMEOUT: Duration = Duration::from_secs(25);
/// What programs find in `TERM`: what tmux is by itself.
pub const TERM: &str = "screen";

/// Runs a command, says how it ended in a file, and keeps the terminal: tmux itself loses the last of what is
/// shown, and now and then the status, of a command whose end is the terminal's. One whose terminal goes first ends by
/// itself.
const KEEP: &str = r#"trap : INT QUIT TERM TSTP HUP; "$@"; echo $? > "$0"; exec sleep 600"#;

/// The server. Ends with the value.
#[derive(Debug)]
pub struct Tmux {
    dir: PathBuf,
}

impl Tmux {
    /// Starts `command` in a pane of so many rows and columns.
    ///
    /// # Panics
    /// If tmux does not start.
    pub fn start(command: &Command, rows: u16, cols: u16) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/agentd-tmux-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a new directory");
        let config = dir.join("conf");
        let text = format!(
            "set -g status off\nset -g default-terminal {TERM}\nset -s escape-time 0\n\
             set -s set-clipboard on\nset -g allow-rename off\nset -g history-limit 200\n"
        );
        std::fs::write(&config, text).expect("a new file");
        let tmux = Self { dir };
        let mut start = tmux.command();
        start.arg("-f").arg(&config).args(["new-session", "-d"]);
        start.args(["-x", &cols.to_string(), "-y", &rows.to_string()]);
        if let Some(cwd) = command.get_current_dir() {
            start.arg("-c").arg(cwd);
        }
        start.args(["--", "/usr/bin/env", "-i"]);
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                let mut pair = key.to_owned();
                pair.push("=");
                pair.push(value);
                start.arg(pair);
            }
        }
        start.arg(format!("TERM={TERM}")).args(["/bin/bash", "-c", KEEP]).arg(tmux.dir.join("status"));
        start.arg(command.get_program()).args(command.get_args());
        let output = start.output().expect("tmux is installed");
        assert!(output.status.success(), "tmux: {}", String::from_utf8_lossy(&output.stderr));
        tmux
    }

    fn command(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.dir.join("socket")).env("LANG", "C.UTF-8").env_remove("TMUX");
        tmux
    }

    fn ask<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        let output = self.command().args(args).output().expect("tmux is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys, by tmux' names for them.
    pub fn keys(&self, keys: &[&str]) {
        self.ask(["send-keys", "--"].into_iter().chain(keys.iter().copied()));
    }

    /// Types `text` into the pane, without a newline.
    pub fn types(&self, text: &str) {
        self.ask(["send-keys", "-l", "--", text]);
    }

    /// Makes the terminal larger or smaller.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.ask(["resize-window", "-x", &cols.to_string(), "-y", &rows.to_string()]);
    }

    /// What is on the screen, with colours, and where the cursor is.
    pub fn screen(&self) -> String {
        let text = self.ask(["capture-pane", "-p", "-e"]);
        let place = self.ask(["display-message", "-p", "#{cursor_x},#{cursor_y} #{cursor_flag}"]);
        format!("{text}cursor {place}")
    }

    /// What is on the screen, as plain text.
    pub fn text(&self) -> String {
        self.ask(["capture-pane", "-p"])
    }

    /// The pane's title.
    pub fn title(&self) -> String {
        self.ask(["display-message", "-p", "#{pane_title}"]).trim().to_owned()
    }

    /// What programs put into tmux' clipboard.
    pub fn clipboard(&self) -> String {
        self.ask(["show-buffer"])
    }

    /// How the command ended; `None` as long as it has not.
    pub fn status(&self) -> Option<i32> {
        std::fs::read_to_string(self.dir.join("status")).ok()?.trim().parse().ok()
    }

    /// The pid of what was started in the pane.
    ///
    /// # Panics
    /// If it has ended.
    pub fn pid(&self) -> u32 {
        let keeper = self.ask(["display-message", "-p", "#{pane_pid}"]).trim().parse().expect("a pid");
        super::parts::children_of(keeper).into_iter().next().expect("a command that runs")
    }

    /// Waits until the text on the screen is so.
    ///
    /// # Panics
    /// If it does not become so, with what is there.
    #[track_caller]
    pub fn wait(&self, what: &str, so: impl Fn(&str) -> bool) {
        let result = within(SCREEN_TIMEOUT, || {
            let text = self.text();
            if so(&text) { Ok(()) } else { Err(text) }
        });
        if let Err(text) = result {
            panic!("{what} is not shown, but:\n{}", text.trim_end());
        }
    }

    /// Waits until `text` is shown.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait(text, |shown| shown.contains(text));
    }

    /// Waits for the end of the command.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait_for_end(&self) -> i32 {
        let mut status = None;
        let result = within(SCREEN_TIMEOUT, || {
            status = self.status();
            if status.is_some() { Ok(()) } else { Err(()) }
        });
        assert_eq!(result, Ok(()), "it does not end; on the screen:\n{}", self.text().trim_end());
        status.expect("just found")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.ask(["kill-server"]);
        std::fs::remove_dir_all::<&Path>(self.dir.as_ref()).ok();
    }
}
