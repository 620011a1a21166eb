//! What the account database says of callers. Asked at most once a minute for each, off the runtime: it
//! may be a directory server.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agentd_kernel::account::Account;
use agentd_policy::Refusal;
use agentd_policy::request::CallerFacts;
use agentd_policy::rule::Rule;

use crate::sync::lock;

const FRESH: Duration = Duration::from_secs(60);
/// Accounts that are remembered; beyond it all are asked for again.
const MOST: usize = 4096;

/// The accounts of callers.
#[derive(Default)]
pub struct Users(Mutex<HashMap<u32, (Instant, Account)>>);

impl Users {
    /// The account of `uid`.
    pub async fn facts(&self, uid: u32, allow_root: bool) -> Result<CallerFacts, Refusal> {
        let known = lock(&self.0).get(&uid).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, a)| a.clone());
        let Account { user, home, shell } = match known {
            Some(account) => account,
            None => {
                let account = tokio::task::spawn_blocking(move || Account::of(uid))
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
        Ok(CallerFacts { uid, user, home, shell, allow_root })
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
            user: agentd_policy::names::UserName::parse(name).unwrap(),
            home: agentd_policy::names::AbsPath::parse(&format!("/home/{name}")).unwrap(),
            shell: agentd_policy::names::AbsPath::parse("/bin/sh").unwrap(),
        };
        lock(&self.0).insert(uid, (Instant::now(), account));
    }
}

fn unknown(uid: u32, why: &str) -> Refusal {
    Refusal::new(
        format!("caller with uid {uid}: {why}"),
        Rule::CallerUnknown,
        "ask as a user whom the account database knows in full",
    )
}
