//! The caller's terminal: raw while a session has it, and given back as it was, whatever happens.

use std::sync::{Mutex, Once, PoisonError};

use agentd_proto::v1::WindowSize;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was like; `Some` while it is raw. One a process, so that a panic finds it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Which of the standard streams are terminals.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Streams {
    /// Asks the kernel.
    pub fn look() -> Self {
        Self { stdin: isatty(stdin()), stdout: isatty(stdout()), stderr: isatty(stderr()) }
    }
}

/// The terminal's size; 80 by 24 if there is none or it does not know.
pub fn window() -> WindowSize {
    tcgetwinsize(stdin())
        .or_else(|_| tcgetwinsize(stdout()))
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(WindowSize { rows: 24, cols: 80 }, |size| WindowSize {
            rows: size.ws_row.into(),
            cols: size.ws_col.into(),
        })
}

/// How many characters a line of standard output has, if it is a terminal.
pub fn width() -> Option<usize> {
    tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|cols| *cols > 0)
}

/// Keeps the terminal of standard input raw as long as it lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// As `tcsetattr(3)`.
    pub fn enter() -> std::io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        let raw = Self(());
        raw.again()?;
        Ok(raw)
    }

    /// Makes it raw once more, after a stop or whatever else has changed it.
    ///
    /// # Errors
    /// As `tcsetattr(3)`.
    pub fn again(&self) -> std::io::Result<()> {
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tcgetattr(stdin())?;
        let mut raw = found.clone();
        raw.make_raw();
        // Saved before it is changed: there is no moment at which it could not be given back.
        saved.get_or_insert(found);
        Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }

    /// Gives it back for a while.
    pub fn pause(&self) {
        restore();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // A panic while the lock is held must not wait for itself.
    let mut saved = match SAVED.try_lock() {
        Ok(saved) => saved,
        Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(std::sync::TryLockError::WouldBlock) => return,
    };
    if let Some(termios) = saved.take() {
        tcsetattr(stdin(), OptionalActions::Now, &termios).ok();
    }
}
