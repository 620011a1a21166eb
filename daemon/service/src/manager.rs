//! The service manager: systemd, or none.

use sd_notify::NotifyState;

/// Sends `states` to the service manager. Without one nothing happens.
pub fn notify(states: &[NotifyState<'_>]) {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    if let Err(error) = agentd_kernel::notify::notify(&lines.join("\n")) {
        tracing::warn!(%error, "the service manager cannot be notified");
    }
}
