//! The alert rules of admin.md.

use std::path::Path;
use std::process::Command;

use agentd_tests::harness::not_tried;

/// Each metric that a rule names is one that agentd(8) lists, and promtool takes the file.
pub(crate) fn rules_are_valid(root: &Path) {
    let text = std::fs::read_to_string(root.join("docs/admin.md")).expect("a document");
    let block = text.split("```yaml").find(|block| block.contains("- alert:")).expect("the rules");
    let rules = block.split_once('\n').and_then(|(_, rest)| rest.split("```").next()).expect("a block");
    let manual = std::fs::read_to_string(root.join("systemd/man/agentd.8")).expect("the manual page");
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let words = expressions.flat_map(|expr| expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let metrics: Vec<_> = words.filter(|word| word.starts_with("agentd_")).collect();
    assert!(metrics.len() > 5, "{rules}");
    for metric in metrics {
        let name = metric.strip_suffix("_bucket").unwrap_or(metric);
        assert!(manual.contains(name), "{name} is in no list of metrics");
    }
    if Command::new("promtool").arg("--version").output().is_err() {
        not_tried("there is no promtool");
    }
    let file = std::env::temp_dir().join(format!("agentd-rules-{}.yml", std::process::id()));
    std::fs::write(&file, rules).expect("a file of ours");
    let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output().expect("promtool");
    std::fs::remove_file(&file).expect("a file of ours");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
