//! What the account database says of a user (`getpwuid_r(3)`). It may ask a directory server, and take its time.

use std::path::Path;

use agentd_policy::Refusal;
use agentd_policy::names::{AbsPath, UserName};
use agentd_policy::rule::Rule;
use nix::unistd::{Uid, User};

/// A user's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub user: UserName,
    /// The home directory.
    pub home: AbsPath,
    /// The login shell; `/bin/sh` if the database names none.
    pub shell: AbsPath,
}

impl Account {
    /// The account of `uid`.
    ///
    /// # Errors
    /// If there is none, or one that no session can have.
    pub fn of(uid: u32) -> Result<Self, Refusal> {
        let user = User::from_uid(Uid::from_raw(uid))
            .map_err(|errno| unknown(uid, &errno.to_string()))?
            .ok_or_else(|| unknown(uid, "no account has this uid"))?;
        let path = |what: &str, path: &Path| {
            let text = path.to_str().ok_or_else(|| unknown(uid, &format!("its {what} is not UTF-8")))?;
            let text = if text.len() > 1 { text.trim_end_matches('/') } else { text };
            AbsPath::parse(text).map_err(|e| unknown(uid, &format!("its {what}: {e}")))
        };
        let shell = if user.shell.as_os_str().is_empty() { "/bin/sh".as_ref() } else { user.shell.as_path() };
        Ok(Self {
            user: UserName::parse(&user.name).map_err(|e| unknown(uid, &e.to_string()))?,
            home: path("home", &user.dir)?,
            shell: path("shell", shell)?,
        })
    }
}

fn unknown(uid: u32, why: &str) -> Refusal {
    Refusal::new(
        format!("caller with uid {uid}: {why}"),
        Rule::CallerUnknown,
        "ask as a user whom the account database knows in full",
    )
}
