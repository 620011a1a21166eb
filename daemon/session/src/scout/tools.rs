//! Files of a workspace that programs besides git run, or follow, when a directory is opened or a shell starts in it.

use std::collections::HashMap;

use agentd_policy::pattern::NamePattern;

/// By the names that they end in, at any depth.
const NAMES: &[&str] = &[
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".bazelrc",
    ".cargo/config",
    ".cargo/config.toml",
    ".claude.json",
    ".claude/agents",
    ".claude/commands",
    ".claude/hooks",
    ".claude/plugins",
    ".claude/settings*",
    ".claude/skills",
    ".codex",
    ".config/autostart",
    ".config/fish",
    ".config/git",
    ".config/systemd",
    ".cshrc",
    ".cursor",
    ".devcontainer",
    ".devcontainer.json",
    ".dir-locals.el",
    ".envrc",
    ".exrc",
    ".gdbinit",
    ".gemini",
    ".gitconfig",
    ".gitmodules",
    ".hg/hgrc",
    ".husky",
    ".idea",
    ".inputrc",
    ".kshrc",
    ".lfsconfig",
    ".lldbinit",
    ".login",
    ".mcp.json",
    ".mise.toml",
    ".npmrc",
    ".nvim.lua",
    ".nvimrc",
    ".pre-commit-config.yaml",
    ".profile",
    ".ssh",
    ".tcshrc",
    ".vimrc",
    ".vscode",
    ".yarnrc",
    ".yarnrc.yml",
    ".zed",
    ".zlogin",
    ".zlogout",
    ".zprofile",
    ".zshenv",
    ".zshrc",
    "mise.toml",
];

/// The names, by the last of each.
pub struct Tools {
    literal: HashMap<Vec<u8>, Vec<NamePattern>>,
    globs: Vec<NamePattern>,
}

impl Tools {
    /// All of them.
    pub fn new() -> Self {
        let mut tools = Self { literal: HashMap::new(), globs: Vec::new() };
        for name in NAMES {
            let Some(pattern) = NamePattern::parse(&format!("**/{name}")) else { continue };
            let last = name.rsplit('/').next().unwrap_or(name);
            if last.contains('*') {
                tools.globs.push(pattern);
            } else {
                tools.literal.entry(last.as_bytes().to_vec()).or_default().push(pattern);
            }
        }
        tools
    }

    /// Whether the file at `path` is one of them. (Of `.gitattributes` its content decides.)
    pub fn has(&self, path: &[u8]) -> bool {
        let names = || path.split(|b| *b == b'/');
        let last = names().next_back().unwrap_or_default();
        let literal = self.literal.get(last).into_iter().flatten();
        literal.chain(&self.globs).any(|pattern| pattern.matches(names()))
    }
}

/// Whether a `.gitattributes` names what a configuration defines: filters, drivers for diffs and merges.
pub fn attributes_name_programs(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().any(|word| {
        ["filter=", "diff=", "merge="].iter().any(|key| word.starts_with(key))
            || word == "filter"
            || word == "diff"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_at_any_depth() {
        let tools = Tools::new();
        for name in
            [".envrc", "a/b/.vscode", ".claude/settings.local.json", "x/.claude/hooks", ".cargo/config.toml"]
        {
            assert!(tools.has(name.as_bytes()), "{name}");
        }
        for name in ["envrc", ".claude", "config.toml", ".claude/notes.md", "src/.vscode2"] {
            assert!(!tools.has(name.as_bytes()), "{name}");
        }
        // Each of the names is a pattern.
        let count = tools.literal.values().map(Vec::len).sum::<usize>() + tools.globs.len();
        assert_eq!(count, NAMES.len());
    }

    #[test]
    fn attributes_count_if_they_name_programs() {
        assert!(attributes_name_programs(b"*.psd filter=lfs diff=lfs merge=lfs -text\n"));
        assert!(!attributes_name_programs(b"* text=auto\n*.sh eol=lf\n"));
    }
}
