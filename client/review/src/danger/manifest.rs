//! Manifests of which only some fields run something.

use super::Danger;
use super::lookalike::plain;
use crate::path::FilePath;

/// A kind of manifest, with the fields that name what is run or where it comes from.
#[derive(Clone, Copy, Debug)]
pub enum Manifest {
    /// A JSON object.
    Json(&'static [&'static str]),
    /// The manifest of a Cargo package.
    Cargo,
}

const PACKAGE: &[&str] = &[
    "scripts",
    "main",
    "bin",
    "exports",
    "browser",
    "module",
    "type",
    "workspaces",
    "gypfile",
    "packageManager",
    "husky",
    "lint-staged",
    "simple-git-hooks",
    "pre-commit",
    "pre-push",
    "pnpm",
    "nx",
    "wireit",
    "trustedDependencies",
    "config",
    "directories",
    "imports",
    "overrides",
    "resolutions",
    "jest",
    "babel",
    "eslintConfig",
    "prettier",
    "stylelint",
    "postcss",
    "mocha",
    "ava",
    "nyc",
    "c8",
    "tap",
    "commitlint",
    "release",
];
const COMPOSER: &[&str] = &["scripts", "bin", "autoload", "autoload-dev", "config", "repositories", "extra"];
const DENO: &[&str] = &["tasks", "imports", "importMap", "scopes"];
const CARGO: &[&str] = &[
    "package.build",
    "package.links",
    "lib.proc-macro",
    "lib.proc_macro",
    "lib.path",
    "patch",
    "replace",
    "cargo-features",
];

impl Manifest {
    /// What `path` is by its name; `None` if it is no such manifest.
    pub fn of(path: &FilePath) -> Option<Self> {
        match plain(path.components().next_back()?).as_str() {
            "package.json" => Some(Self::Json(PACKAGE)),
            "composer.json" => Some(Self::Json(COMPOSER)),
            "deno.json" | "deno.jsonc" => Some(Self::Json(DENO)),
            "cargo.toml" => Some(Self::Cargo),
            _ => None,
        }
    }

    /// What a change of its fields is.
    pub fn danger(self) -> Danger {
        match self {
            Self::Json(_) => Danger::Scripts,
            Self::Cargo => Danger::Build,
        }
    }

    /// Whether one of the fields differs, or `after` cannot be read. An empty `before` has none of them.
    pub fn runs_something_else(self, before: &[u8], after: &[u8]) -> bool {
        match self {
            Self::Json(fields) => {
                let read =
                    |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok().filter(|v| v.is_object());
                let old = read(before);
                let differs = |new: serde_json::Value| {
                    fields.iter().any(|field| old.as_ref().and_then(|old| old.get(field)) != new.get(field))
                };
                read(after).is_none_or(differs)
            }
            Self::Cargo => {
                let read = |bytes| toml::from_str::<toml::Table>(std::str::from_utf8(bytes).ok()?).ok();
                let old = read(before).unwrap_or_default();
                let differs =
                    |new: toml::Table| CARGO.iter().any(|field| find(&old, field) != find(&new, field));
                read(after).is_none_or(differs)
            }
        }
    }
}

fn find<'a>(table: &'a toml::Table, field: &str) -> Option<&'a toml::Value> {
    match field.split_once('.') {
        None => table.get(field),
        Some((name, rest)) => table.get(name)?.get(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Manifest {
        Manifest::of(&FilePath::parse(path.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_package_that_runs_the_same() {
        let package = of("web/Package.json");
        let with = |scripts: &str, version: &str| {
            format!("{{\"version\": \"{version}\", \"scripts\": {scripts}}}").into_bytes()
        };
        assert!(
            !package.runs_something_else(&with("{\"test\": \"x\"}", "1"), &with("{\"test\":\"x\"}", "2"))
        );
        assert!(package.runs_something_else(&with("{}", "1"), &with("{\"postinstall\": \"x\"}", "1")));
        assert!(package.runs_something_else(b"", &with("{}", "1")));
        assert!(!package.runs_something_else(b"", b"{\"dependencies\": {}}"));
        assert!(package.runs_something_else(b"{}", b"// no JSON"));
    }

    #[test]
    fn a_cargo_manifest() {
        let cargo = of("Cargo.toml");
        assert!(!cargo.runs_something_else(
            b"[package]\nname = 'a'",
            b"[package]\nname = 'b'\n[dependencies]\nc = '1'"
        ));
        assert!(cargo.runs_something_else(b"[package]", b"[package]\nbuild = 'x.rs'"));
        assert!(cargo.runs_something_else(b"", b"[lib]\nproc-macro = true"));
        assert!(cargo.runs_something_else(b"", b"]"));
    }
}
