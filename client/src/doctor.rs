//! `agentctl doctor`: what the host offers, what the user has, and whether a session holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use agentd_proto::v1::{Check, DoctorReply, DoctorRequest};

use crate::canary;
use crate::check::check;
use crate::cli::DoctorArgs;
use crate::connect::{Socket, answer_within};
use crate::failure::Failure;
use crate::profile;
use crate::show::{clean, colours, json, print};
use crate::terminal::Streams;

/// How long the daemon may look.
const EXAMINATION: Duration = Duration::from_secs(120);

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// Prints every check. Returns 1 if something is missing, was possible, or was left behind.
///
/// # Errors
/// If no daemon answers; what can be said without one is said.
pub async fn doctor(socket: &Socket, args: DoctorArgs) -> Result<i32, Failure> {
    let show = Show { as_json: args.json, colours: !args.json && colours() };
    let request = DoctorRequest { leaks: args.leaks, clean: args.clean };
    // Not everybody may look for what was left behind: then nothing else is said.
    let asked = match args.leaks {
        true => match examine(socket, request).await {
            Err(failure) if failure.is_not_permitted() => return Err(failure),
            examined => Some(examined),
        },
        false => None,
    };
    let mut bad = show.checks("This user", &own(socket.path()))?;
    let DoctorReply { checks, leaks } = match asked {
        Some(examined) => examined?,
        None => examine(socket, request).await?,
    };
    bad |= show.checks("This host", &checks)?;
    if args.leaks {
        bad |= leaks.iter().any(|leak| !leak.cleaned);
        show.leaks(&leaks)?;
    }
    if !args.no_canary {
        bad |= show.checks("A session that tries what it must not", &canary::self_test(socket).await)?;
    }
    Ok(i32::from(bad))
}

async fn examine(socket: &Socket, request: DoctorRequest) -> Result<DoctorReply, Failure> {
    answer_within(EXAMINATION, socket.connect().await?.doctor(request)).await
}

/// What can be said without a daemon.
fn own(socket: &Path) -> Vec<Check> {
    vec![reachable(socket), group(socket), profiles(), terminal()]
}

fn reachable(socket: &Path) -> Check {
    let (name, at) = ("client.socket", socket.display());
    let impact = "nothing but this command works";
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => check(name, "ok", at.to_string(), "", ""),
        Err(error) => {
            let fix = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "become a member of the socket's group, usually agentd"
                }
                std::io::ErrorKind::ConnectionRefused => "start the daemon: systemctl start agentd",
                _ => "start the daemon (systemctl start agentd), or name its socket: --socket, AGENTD_SOCKET",
            };
            check(name, "missing", format!("{at}: {error}"), impact, fix)
        }
    }
}

fn group(socket: &Path) -> Check {
    let name = "client.group";
    let impact = "the daemon's socket cannot be opened";
    let gid = match std::fs::metadata(socket) {
        Ok(meta) => meta.gid(),
        Err(error) => {
            return check(
                name,
                "missing",
                format!("{}: {error}", socket.display()),
                impact,
                "start the daemon",
            );
        }
    };
    let own = rustix::process::getegid().as_raw();
    let groups = match rustix::process::getgroups() {
        Ok(groups) => groups,
        Err(errno) => return check(name, "missing", format!("your groups: {errno}"), impact, ""),
    };
    let label = group_name(gid).unwrap_or_else(|| gid.to_string());
    if rustix::process::geteuid().is_root() {
        check(name, "ok", format!("root needs no group; others need {label}"), "", "")
    } else if own == gid || groups.iter().any(|group| group.as_raw() == gid) {
        check(name, "ok", format!("member of {label}"), "", "")
    } else {
        let fix = format!("as root: gpasswd -a USER {label}; then log in again");
        check(name, "missing", format!("not a member of {label}"), impact, &fix)
    }
}

fn group_name(gid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

fn profiles() -> Check {
    let name = "client.profiles";
    let Some(dir) = profile::own_directory() else {
        let impact = "profiles of your own are not found";
        return check(name, "reduced", "HOME is not set", impact, "set HOME");
    };
    let at = dir.display();
    match std::fs::read_dir(&dir) {
        Ok(entries) => {
            let count =
                entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "toml")).count();
            check(name, "ok", format!("{count} in {at}"), "", "")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            check(name, "ok", format!("none of your own ({at} is not there)"), "", "")
        }
        Err(error) => {
            let fix = format!("chmod u+rx {at}");
            check(name, "reduced", format!("{at}: {error}"), "profiles of your own are not found", &fix)
        }
    }
}

fn terminal() -> Check {
    let name = "client.terminal";
    let streams = Streams::look();
    let term = std::env::var("TERM").unwrap_or_default();
    match (streams.stdin && streams.stdout, term.as_str()) {
        (false, _) => check(name, "ok", "standard input and output are none: sessions get pipes", "", ""),
        (true, "" | "dumb") => check(
            name,
            "reduced",
            format!("TERM is {term:?}"),
            "full-screen programs do not know what the terminal can do",
            "set TERM to the terminal's kind, such as xterm-256color",
        ),
        (true, term) => check(name, "ok", term, "", ""),
    }
}

struct Show {
    as_json: bool,
    colours: bool,
}

impl Show {
    /// Prints `checks`; whether something is missing.
    fn checks(&self, title: &str, checks: &[Check]) -> Result<bool, Failure> {
        let mut out = String::new();
        if !self.as_json {
            out.push_str(&format!("{title}\n"));
        }
        let wide = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for check in checks {
            out += &if self.as_json { json(check)? + "\n" } else { self.line(check, wide) };
        }
        print(&out)?;
        Ok(checks.iter().any(|check| !matches!(check.status.as_str(), "ok" | "reduced")))
    }

    fn line(&self, check: &Check, wide: usize) -> String {
        let [name, status, found, impact, fix] =
            [&check.name, &check.status, &check.found, &check.impact, &check.fix].map(|text| clean(text));
        let colour = match check.status.as_str() {
            "ok" => GREEN,
            "reduced" => YELLOW,
            _ => RED,
        };
        let (on, off) = if self.colours { (colour, PLAIN) } else { ("", "") };
        let mut out = format!("  {on}{status:<8}{off} {name:<wide$}  {found}\n");
        if check.status != "ok" {
            for (word, text) in [("impact", impact), ("fix", fix)].iter().filter(|(_, text)| !text.is_empty())
            {
                out.push_str(&format!("  {:<8} {:<wide$}  {word}: {text}\n", "", ""));
            }
        }
        out
    }

    fn leaks(&self, leaks: &[agentd_proto::v1::Leak]) -> Result<(), Failure> {
        let mut out = String::new();
        if !self.as_json {
            let none = if leaks.is_empty() { ": nothing" } else { "" };
            out.push_str(&format!("Left behind by earlier sessions{none}\n"));
        }
        for leak in leaks {
            if self.as_json {
                out += &(json(leak)? + "\n");
                continue;
            }
            let (colour, word) = if leak.cleaned { (GREEN, "cleaned") } else { (RED, "left") };
            let (on, off) = if self.colours { (colour, PLAIN) } else { ("", "") };
            out.push_str(&format!("  {on}{word:<8}{off} {:<8} {}\n", clean(&leak.kind), clean(&leak.what)));
        }
        print(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_says_what_to_do() {
        let show = Show { as_json: false, colours: false };
        let lack = check("land\x1block", "missing", "ABI 1", "no sessions", "Linux 5.19");
        let text = show.line(&lack, 8);
        assert!(text.contains("impact: no sessions") && text.contains("fix: Linux 5.19"), "{text}");
        assert!(!text.contains('\x1b'));
        let fine = Show { as_json: false, colours: true }.line(&check("x", "ok", "y", "z", ""), 1);
        assert_eq!(fine, "  \x1b[32mok      \x1b[0m x  y\n");
    }

    #[test]
    fn without_a_daemon_the_socket_is_missing() {
        let checks = own(Path::new("/nonexistent/agentd.sock"));
        assert_eq!(checks.iter().filter(|check| check.status == "missing").count(), 2, "{checks:?}");
    }
}
