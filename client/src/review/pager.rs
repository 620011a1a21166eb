//! Standard output, in a pager if it is a terminal.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::failure::Failure;

/// Used if the caller names none: colours pass, short texts are printed at once, the screen stays as it is.
const DEFAULT: [&str; 2] = ["less", "-FRX"];

/// Where a long text goes. Its caller escaped what steers a terminal.
#[derive(Debug)]
pub enum Output {
    /// Standard output itself.
    Plain,
    /// A pager's standard input.
    Pager(Child, Option<ChildStdin>),
}

impl Output {
    /// Starts $PAGER (words without quotes: no shell reads it) or less, unless standard output is no terminal or
    /// `plain`. Without a pager on this host the text is printed.
    ///
    /// # Errors
    /// None now; a pager that cannot be started is left out.
    pub fn open(plain: bool) -> Result<Self, Failure> {
        let chosen = std::env::var("PAGER").unwrap_or_default();
        let mut words: Vec<&str> = chosen.split_whitespace().collect();
        if words.is_empty() {
            words.extend(DEFAULT);
        }
        let is_terminal = rustix::termios::isatty(rustix::stdio::stdout());
        let Some((program, options)) = words.split_first().filter(|(program, _)| **program != "cat") else {
            return Ok(Self::Plain);
        };
        if plain || !is_terminal {
            return Ok(Self::Plain);
        }
        let mut command = Command::new(program);
        command.args(options);
        Ok(match command.stdin(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let stdin = child.stdin.take();
                Self::Pager(child, stdin)
            }
            Err(_) => Self::Plain,
        })
    }

    /// Writes some of the text. A pager that was left early wants no more.
    ///
    /// # Errors
    /// [`Failure::output`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write_all(bytes).map_err(|error| Failure::output("stdout", &error))
    }

    /// Waits until the pager was left.
    ///
    /// # Errors
    /// As `waitpid(2)`.
    pub fn finish(self) -> Result<(), Failure> {
        if let Self::Pager(mut child, stdin) = self {
            drop(stdin);
            child.wait().map_err(|error| Failure::failed(format!("the pager: {error}")))?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Pager(_, stdin) = self else {
            crate::pipes::write(rustix::stdio::stdout(), bytes)?;
            return Ok(bytes.len());
        };
        match stdin.as_mut().map(|pager| pager.write(bytes)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                *stdin = None;
                Ok(bytes.len())
            }
            Some(written) => written,
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
