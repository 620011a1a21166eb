//! Changes that were meant and are not applied, and why.

use std::collections::BTreeSet;

use agentd_review::danger::Danger;

/// Why a change that was meant is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It runs later by itself, or deceives, and was not named.
    SetApart(BTreeSet<Danger>),
    /// It never is: a device, or a file that nobody can read.
    Never(Danger),
    /// The workspace's file was changed since the session began, and is kept.
    Ours,
    /// The caller said no.
    Declined,
    /// It has the name of a staging directory of agentd's.
    Reserved,
    /// It would lose a file: the other half of a move, or the content of a directory, is left out.
    Together,
}

impl Left {
    /// The reason in JSON: `docs/json.md`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::SetApart(_) => "set_apart",
            Self::Never(_) => "never",
            Self::Ours => "ours",
            Self::Declined => "declined",
            Self::Reserved => "reserved",
            Self::Together => "together",
        }
    }

    /// What it runs, as the words of `--including`.
    pub fn dangers(&self) -> Vec<&'static str> {
        match self {
            Self::SetApart(dangers) => dangers.iter().map(|danger| danger.word()).collect(),
            Self::Never(danger) => vec![danger.word()],
            _ => Vec::new(),
        }
    }

    /// The reason, and what applies it all the same.
    pub fn sentence(&self, label: &str) -> String {
        match self {
            Self::SetApart(dangers) => {
                let sentences: Vec<_> = dangers.iter().map(|danger| danger.sentence()).collect();
                let flags: Vec<_> = dangers.iter().map(|danger| format!(" --including {danger}")).collect();
                format!("{}; look at it, then agentctl apply {label}{}", sentences.join(", "), flags.concat())
            }
            Self::Never(danger) => format!("{}, and is never applied", danger.sentence()),
            Self::Ours => "changed in the workspace since, which is kept".to_owned(),
            Self::Declined => "as you said".to_owned(),
            Self::Reserved => "a name of agentd's own, and is never applied".to_owned(),
            Self::Together => {
                "a file would be lost by it: where it was moved to, or what is in it, is left out".to_owned()
            }
        }
    }
}
