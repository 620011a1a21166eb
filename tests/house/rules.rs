//! Rules: their names stand in one table.

use super::{of_product, root};

/// Names that are something else besides: an event's kind, or a profile's key.
const ALSO: &[&str] = &["session.ended", "network.deny", "network.dns_types", "network.publish"];

/// The names in the table: the dotted ones, of which nobody writes one by chance.
fn names() -> Vec<String> {
    let table = std::fs::read_to_string(root().join("daemon/policy/src/rule/table.rs")).expect("the table");
    let entry = |line: &str| {
        let (variant, rest) = line.trim().split_once(" \"")?;
        let name = rest.split_once('"')?.0;
        let is_variant =
            variant.chars().all(char::is_alphanumeric) && variant.starts_with(char::is_uppercase);
        (is_variant && name.contains('.') && !name.contains(' ')).then(|| name.to_owned())
    };
    table.lines().filter_map(entry).filter(|name| !ALSO.contains(&name.as_str())).collect()
}

#[test]
fn no_rule_is_named_outside_of_the_table() {
    let names = names();
    assert!(names.len() > 150, "the table is not read: {names:?}");
    let mut found = Vec::new();
    for (path, text) in of_product() {
        let name = path.display().to_string();
        let test = name.contains("/tests/") || name.ends_with("tests.rs") || name.contains("/loopback/");
        if test || name.contains("/examples/") || name.ends_with("rule/table.rs") {
            continue;
        }
        let product = text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
        let product = product.split("#[cfg(test)]\npub(crate) mod").next().unwrap_or_default();
        let lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            let is_named = |rule: &&String| {
                [format!("\"{rule}\""), format!("\"{rule} {{")].iter().any(|l| line.contains(l))
            };
            found
                .extend(names.iter().filter(is_named).map(|rule| format!("{name}: {rule}: {}", line.trim())));
        }
    }
    assert!(found.is_empty(), "write Rule::NAME:\n{}", found.join("\n"));
}
