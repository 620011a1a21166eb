//! What a profile says of HTTP requests and of secrets in them.

use serde::{Deserialize, Serialize};

use super::merge::Item;

/// `[[http]]`: requests that pass. Not enforced yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The host that requests go to.
    pub host: String,
    /// Methods that pass; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths that pass; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// `[[credential]]`: a secret for requests. Not enforced yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The host whose requests get it.
    pub host: String,
    /// The secret's name.
    pub secret: String,
    /// Where it is put.
    pub inject: Inject,
    /// The variable that holds a placeholder of its shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder_env: Option<String>,
}

/// Where a secret is put.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// The name of the header.
    pub header: String,
    /// Its value, with `{secret}` in it.
    pub value: String,
}

impl Item for Http {}
impl Item for Credential {}
