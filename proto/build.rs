//! Generates the Rust types of `agentd.v1`.

/// What `--json` prints and what the event files hold.
const JSON: &[&str] = &[
    "Event",
    "Actor",
    "ExecDetail",
    "ExitDetail",
    "NetDetail",
    "LimitDetail",
    "SessionDetail",
    "DroppedDetail",
    "DnsDetail",
    "HttpDetail",
    "PolicyDetail",
    "FileDetail",
    "ConfineDetail",
    "ReviewDetail",
    "Changes",
    "Session",
    "Exit",
    "VersionReply",
    "Timing",
    "InspectReply",
    "Network",
    "Cap",
    "Mount",
    "Limits",
    "Check",
    "Leak",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("agentd.v1.bin");
    let mut config = tonic_prost_build::configure().bytes(".").file_descriptor_set_path(descriptors);
    for message in JSON {
        let path = format!("agentd.v1.{message}");
        config = config
            .type_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .type_attribute(&path, "#[serde(default)]")
            .field_attribute(
                format!(".{path}"),
                "#[serde(skip_serializing_if = \"crate::skip::Skip::skip\")]",
            );
    }
    config.compile_protos(&["proto/agentd/v1/agentd.proto"], &["proto"])?;
    Ok(())
}
