//! What the account database says of callers. Asked at most once a minute for each, off the runtime: it
//! may be a directory server.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agentd_policy::Refusal;
use agentd_policy::decide::CallerFacts;
use agentd_policy::names::{AbsPath, UserName};
use nix::unistd::{Uid, User};

use crate::host::lock;

const FRESH: Duration = Duration::from_secs(60);
/// Accounts that are remembered; beyond it all are asked for again.
const MOST: usize = 4096;

/// The accounts of callers.
#[derive(Default)]
pub struct Users(Mutex<HashMap<u32, (Instant, Account)>>);

#[derive(Clone)]
struct Account {
    user: UserName,
    home: AbsPath,
    shell: AbsPath,
}

impl Users {
    /// The account of `uid`.
    pub async fn facts(&self, uid: u32, root_callers: bool) -> Result<CallerFacts, Refusal> {
        let known = lock(&self.0).get(&uid).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, a)| a.clone());
        let Account { user, home, shell } = match known {
            Some(account) => account,
            None => {
                let account = tokio::task::spawn_blocking(move || account(uid))
                    .await
                    .map_err(|_| unknown(uid, "the look-up failed"))??;
                let mut accounts = lock(&self.0);
                if accounts.len() >= MOST {
                    accounts.clear();
                }
                accounts.insert(uid, (Instant::now(), account.clone()));
                account
            }
        };
        Ok(CallerFacts { uid, user, home, shell, root_callers })
    }

    /// What events call `uid`: its login name, or the number if there is none.
    pub async fn name(&self, uid: u32) -> String {
        match self.facts(uid, false).await {
            Ok(facts) => facts.user.to_string(),
            Err(_) => uid.to_string(),
        }
    }
}

#[cfg(test)]
impl Users {
    /// An account that the test's host need not have.
    pub fn put(&self, uid: u32, name: &str) {
        let account = Account {
            user: UserName::parse(name).unwrap(),
            home: AbsPath::parse(&format!("/home/{name}")).unwrap(),
            shell: AbsPath::parse("/bin/sh").unwrap(),
        };
        lock(&self.0).insert(uid, (Instant::now(), account));
    }
}

fn account(uid: u32) -> Result<Account, Refusal> {
    let user = User::from_uid(Uid::from_raw(uid))
        .map_err(|errno| unknown(uid, &errno.to_string()))?
        .ok_or_else(|| unknown(uid, "no account has this uid"))?;
    let path = |what: &str, path: &std::path::Path| {
        let text = path.to_str().ok_or_else(|| unknown(uid, &format!("its {what} is not UTF-8")))?;
        let text = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        AbsPath::parse(text).map_err(|e| unknown(uid, &format!("its {what}: {e}")))
    };
    let shell = if user.shell.as_os_str().is_empty() { "/bin/sh".as_ref() } else { user.shell.as_path() };
    Ok(Account {
        user: UserName::parse(&user.name).map_err(|e| unknown(uid, &e.to_string()))?,
        home: path("home", &user.dir)?,
        shell: path("shell", shell)?,
    })
}

fn unknown(uid: u32, why: &str) -> Refusal {
    Refusal::new(
        format!("caller with uid {uid}: {why}"),
        "caller.unknown",
        "ask as a user whom the account database knows in full",
    )
}
