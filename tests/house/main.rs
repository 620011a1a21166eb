//! The workspace's own promises: who may import whom, where `unsafe` is, that nothing is shelled out to.

mod circles;
mod documents;
mod root_lines;
mod rules;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A package's dependencies inside the workspace, each with its features.
type Edges = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").into()
}

fn edges() -> Edges {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: Vec<String> = packages.iter().map(|p| text(&p["name"])).collect();
    let own = |package: &Value| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        // What only tests use is in no product.
        let used = all.filter(|d| d["kind"] != "dev" && names.contains(&text(&d["name"])));
        used.map(|d| {
            let features = d["features"].as_array().into_iter().flatten().map(text).collect();
            (text(&d["name"]), features)
        })
        .collect()
    };
    packages.iter().map(|package| (text(&package["name"]), own(package))).collect()
}

/// Who may import whom, and with which features of `agentd-kernel`.
const MAY: &[(&str, &[&str], &[&str])] = &[
    ("agentd-proto", &[], &[]),
    ("agentd-policy", &[], &[]),
    ("agentd-kernel", &["agentd-policy"], &[]),
    ("agentd-session", &["agentd-policy", "agentd-kernel"], &["session", "lockdown"]),
    ("agentd-launcher", &["agentd-policy", "agentd-kernel", "agentd-session"], &["session", "lockdown"]),
    ("agentd-protocols", &["agentd-policy"], &[]),
    ("agentd-relay", &["agentd-policy", "agentd-kernel", "agentd-protocols"], &["lockdown"]),
    ("agentd-request", &["agentd-proto", "agentd-policy"], &[]),
    ("agentd-review", &["agentd-policy"], &[]),
    ("agentd", &["agentd-proto", "agentd-policy", "agentd-kernel", "agentd-request"], &["account"]),
    (
        "agentctl",
        &[
            "agentd-proto",
            "agentd-policy",
            "agentd-kernel",
            "agentd-protocols",
            "agentd-request",
            "agentd-review",
        ],
        &["account"],
    ),
    ("agentd-tests", &["agentd-proto", "agentd-policy", "agentd-kernel", "agentd-request"], &["account"]),
    ("agentd-fuzz", &["agentd-policy", "agentd-kernel", "agentd-protocols", "agentd-review"], &["session"]),
];

#[test]
fn nobody_imports_what_it_may_not() {
    let edges = edges();
    for (package, imports) in &edges {
        let (_, may, features) = MAY
            .iter()
            .find(|(name, ..)| name == package)
            .unwrap_or_else(|| panic!("{package} has no rule here"));
        for (import, with) in imports {
            assert!(may.contains(&import.as_str()), "{package} must not import {import}");
            for feature in with {
                let kernel = import == "agentd-kernel";
                assert!(
                    !kernel || features.contains(&feature.as_str()),
                    "{package}: {import} with {feature}"
                );
            }
        }
    }
    assert_eq!(edges.len(), MAY.len(), "a rule for a package that is gone");
}

/// Rust sources below `dir`.
fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn of_product() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    for dir in ["proto", "daemon", "client"] {
        sources(&root().join(dir), &mut paths);
    }
    assert!(paths.len() > 20, "the sources are not where they were");
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("a source"))).collect()
}

/// Code without comments and without the content of strings, roughly: enough for words.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn only_the_kernel_crate_holds_unsafe() {
    for (path, text) in of_product() {
        if path.starts_with(root().join("daemon/kernel")) {
            continue;
        }
        let code = code(&text);
        for word in ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"] {
            assert!(!code.contains(word), "{word} in {}", path.display());
        }
    }
    let mut tests = Vec::new();
    sources(&root().join("tests"), &mut tests);
    for path in tests.iter().filter(|p| !p.ends_with("probe/sys.rs") && !p.ends_with("house/main.rs")) {
        let code = code(&std::fs::read_to_string(path).expect("a source"));
        assert!(!code.contains("unsafe {"), "unsafe in {}", path.display());
    }
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for dir in [
        "proto",
        "daemon/policy",
        "daemon/protocols",
        "daemon/launcher",
        "daemon/session",
        "daemon/relay",
        "daemon/service",
        "client",
        "client/review",
    ] {
        let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{dir}");
    }
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}

#[test]
fn nothing_is_shelled_out_to() {
    for (path, text) in of_product() {
        let name = path.display().to_string();
        let test = name.contains("/tests/") || name.ends_with("tests.rs");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for program in
            ["ip", "nft", "mount", "umount", "unshare", "nsenter", "sh", "bash", "sysctl", "useradd"]
        {
            let call = format!("Command::new(\"{program}\")");
            assert!(test || !code(product).contains(&call), "{call} in {name}");
        }
    }
}
