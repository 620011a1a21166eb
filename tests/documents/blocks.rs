//! Fenced blocks of documents.

use std::path::Path;

/// A fenced block.
pub(crate) struct Block {
    /// The file, the heading above it, and its number below that.
    pub(crate) name: String,
    /// The words of the fence: the language first.
    pub(crate) words: Vec<String>,
    text: String,
}

impl Block {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// Whether these are commands that can run here.
    pub(crate) fn runs(&self) -> bool {
        let commands = self.words.first().is_some_and(|word| ["sh", "console"].contains(&word.as_str()));
        commands && !self.words.iter().any(|word| word.starts_with("notest:"))
    }

    /// The script; of a `console` block what stands behind the prompts.
    pub(crate) fn commands(&self) -> String {
        if self.has("sh") {
            return self.text.clone();
        }
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The blocks of README.md and docs/, in order.
pub(crate) fn blocks(root: &Path) -> Vec<Block> {
    let docs = std::fs::read_dir(root.join("docs")).expect("documents").flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.push(root.join("README.md"));
    paths.sort();
    paths.iter().flat_map(|path| of(path)).collect()
}

fn of(path: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(path).expect("a document");
    let file = path.file_name().expect("a name").to_string_lossy();
    let (mut all, mut heading, mut number) = (Vec::new(), String::new(), 0);
    let mut open: Option<Block> = None;
    for line in text.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(info)) => {
                number += 1;
                let words = info.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { name: format!("{file}::{heading}{number}"), words, text: String::new() });
            }
            (Some(_), Some(_)) => all.extend(open.take()),
            (Some(block), None) => block.text += &format!("{}\n", line.trim_start()),
            (None, None) => {
                if let Some(title) = line.strip_prefix('#') {
                    let title = title.trim_start_matches(['#', ' ']).to_lowercase();
                    heading = title.replace(|c: char| !c.is_ascii_alphanumeric(), "_") + "_";
                    number = 0;
                }
            }
        }
    }
    assert!(open.is_none(), "{}: a fence is not closed", path.display());
    all
}
