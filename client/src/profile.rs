//! Profiles: by name, as a user's own, or as a file, resolved here; and `profile check` and `profile show`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use agentd_policy::library::{Library, Text};
use agentd_policy::names::ProfileName;
use agentd_policy::offer::Site;
use agentd_policy::profile::Profile;
use agentd_policy::rule::Rule;
use rustix::fs::OFlags;
use serde_json::json;

use crate::cli::ProfileNameArgs;
use crate::connect::Socket;
use crate::failure::Failure;
use crate::offer::utf8;
use crate::show::{clean, clean_lines, json, print};
use crate::side::Side;
use crate::site_profiles;

/// The longest profile, and the most that a user's other profiles come to together.
const MAX_BYTES: u64 = 1 << 20;
/// The most of a user's own profiles that go along.
const MAX_FILES: usize = 64;
/// The profile if none is named.
const DEFAULT: &str = "default";

/// Where the user's own are.
pub fn own_directory() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/agentd/profiles"))
}

/// The names of the user's own and the one that is used if none is named.
pub fn names() -> Vec<String> {
    let own = own_directory().and_then(|own| std::fs::read_dir(own).ok());
    let name = |path: PathBuf| match path.extension() {
        Some(extension) if extension == "toml" => Some(path.file_stem()?.to_str()?.to_owned()),
        _ => None,
    };
    let mut names: Vec<_> = own.into_iter().flatten().flatten().filter_map(|e| name(e.path())).collect();
    names.push(DEFAULT.to_owned());
    names.sort();
    names.dedup();
    names
}

/// The profile that `name` means, or the default one, merged with its parents: the user's own or a file, else the
/// site's that `site` names the directories of, else a built-in one.
///
/// # Errors
/// If it cannot be read, is malformed, or is not known.
pub fn resolve(name: Option<&OsStr>, site: &Site) -> Result<Profile, Failure> {
    let found = find_in(own_directory().as_deref(), name.unwrap_or(OsStr::new(DEFAULT)))?;
    let library = Library {
        files: &found.files,
        site: &|name| site_profiles::find(&site.profile_dirs, name),
        bounds: &site.bounds,
    };
    Ok(library.resolve(&found.name)?)
}

/// What a name leads to among the user's own files.
struct Found {
    /// What it is called.
    name: ProfileName,
    /// The first is meant; the others are what its `extends` may name. None: the name is not the user's own.
    files: Vec<Text>,
}

fn find_in(own: Option<&Path>, name: &OsStr) -> Result<Found, Failure> {
    let bytes = name.as_bytes();
    let meant = if bytes.contains(&b'/') || bytes.ends_with(b".toml") {
        Some(PathBuf::from(name))
    } else {
        let mut file = name.to_owned();
        file.push(".toml");
        own.map(|own| own.join(file)).filter(|path| path.symlink_metadata().is_ok())
    };
    let Some(meant) = meant else {
        let name = name.to_str().ok_or_else(|| {
            Failure::refused(format!("profile {}", name.display()), Rule::ProfileUtf8, "name it in UTF-8")
        })?;
        let name = ProfileName::parse(name).map_err(|error| error.refusal(Rule::ProfileName))?;
        return Ok(Found { name, files: vec![] });
    };
    let mut files = vec![read(&meant)?];
    if let Some(own) = own {
        add_others(own, &meant, &mut files);
    }
    // It only says by what the file was found; the file is there.
    let name = ProfileName::parse("file").map_err(|error| error.refusal(Rule::ProfileName))?;
    Ok(Found { name, files })
}

/// Absolute paths of the files that decide on a session with the profile `name`, by every name that leads to them, and
/// of the directory of the user's own: no such session may write there.
///
/// # Errors
/// As [`resolve`].
pub fn places(name: Option<&OsStr>) -> Result<Vec<String>, Failure> {
    let own = own_directory();
    let found = find_in(own.as_deref(), name.unwrap_or(OsStr::new(DEFAULT)))?;
    places_of(found.files.iter().map(|file| PathBuf::from(&file.label)).chain(own))
}

fn places_of(paths: impl Iterator<Item = PathBuf>) -> Result<Vec<String>, Failure> {
    let mut places: Vec<String> = paths
        .flat_map(|path| [std::path::absolute(&path).ok().map(|path| plain(&path)), path.canonicalize().ok()])
        .flatten()
        .map(|path| utf8(&path))
        .collect::<Result<_, _>>()?;
    places.sort();
    places.dedup();
    Ok(places)
}

/// An absolute path without `..`, which leads to where its links lead.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out = out.canonicalize().unwrap_or(out);
                out.pop();
            }
            component => out.push(component),
        }
    }
    out
}

/// Adds the user's other profiles, which the first may extend; one that cannot be read is left out, and
/// missed if it is needed.
fn add_others(own: &Path, meant: &Path, files: &mut Vec<Text>) {
    let Ok(entries) = std::fs::read_dir(own) else { return };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension() == Some(OsStr::new("toml")) && path != meant)
        .collect();
    paths.sort();
    let mut room = MAX_BYTES;
    for path in paths {
        if files.len() == MAX_FILES {
            return;
        }
        if let Ok(file) = read(&path)
            && let Some(left) = room.checked_sub(file.toml.len() as u64)
        {
            room = left;
            files.push(file);
        }
    }
}

/// Reads one file, which must be a regular one of at most 1 MiB of UTF-8.
fn read(path: &Path) -> Result<Text, Failure> {
    let label = utf8(path)?;
    let unreadable = |error: std::io::Error| {
        let hint = "name a file that exists and that you may read";
        Failure::refused(format!("profile {label}: {error}"), Rule::ProfileOpen, hint)
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let file = File::from(fd);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::refused(
            format!("profile {label}"),
            Rule::ProfileType,
            "name a regular file; a profile by name has no slash and no .toml",
        ));
    }
    // By another name a session could write it.
    if metadata.nlink() > 1 && metadata.uid() == rustix::process::geteuid().as_raw() {
        return Err(Failure::refused(
            format!("profile {label}, a file with {} names", metadata.nlink()),
            Rule::ProfileLinks,
            "make it a file of its own: cp it, and mv the copy over it",
        ));
    }
    let too_long = |bytes: u64| {
        let hint = format!("keep it within {MAX_BYTES} bytes");
        Failure::refused(format!("profile {label} of {bytes} bytes"), Rule::ProfileSize, hint)
    };
    if metadata.len() > MAX_BYTES {
        return Err(too_long(metadata.len()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long(bytes.len() as u64));
    }
    let toml = String::from_utf8(bytes)
        .map_err(|_| Failure::refused(format!("profile {label}"), Rule::ProfileUtf8, "write it in UTF-8"))?;
    Ok(Text { label, toml })
}

/// `agentctl profile check`.
///
/// # Errors
/// What is wrong with it.
pub fn check(socket: &Socket, args: ProfileNameArgs) -> Result<(), Failure> {
    resolve(Some(&args.profile), &Side::connect(socket)?.site)?;
    let name = args.profile.to_string_lossy();
    let line = if args.json {
        json(&json!({ "profile": name, "ok": true }))?
    } else {
        format!("{}: ok", clean(&name))
    };
    print(&(line + "\n"))
}

/// `agentctl profile show`.
///
/// # Errors
/// What is wrong with it.
pub fn show(socket: &Socket, args: ProfileNameArgs) -> Result<(), Failure> {
    let toml = resolve(Some(&args.profile), &Side::connect(socket)?.site)?.to_toml()?;
    if args.json {
        let name = args.profile.to_string_lossy();
        return print(&(json(&json!({ "profile": name, "toml": toml }))? + "\n"));
    }
    print(&format!("{}\n", clean_lines(toml.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("agentctl-{name}-{}", std::process::id()));
            std::fs::remove_dir_all(&path).ok();
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn a_users_own_comes_before_the_daemons() {
        let dir = Dir::new("own");
        dir.write("mine.toml", b"schema = 1");
        dir.write("base.toml", b"schema = 2");
        dir.write("notes.txt", b"no profile");
        let own = find_in(Some(&dir.0), OsStr::new("mine")).unwrap();
        assert_eq!(
            own.files.iter().map(|f| f.toml.as_str()).collect::<Vec<_>>(),
            ["schema = 1", "schema = 2"]
        );
        let other = find_in(Some(&dir.0), OsStr::new("other")).unwrap();
        assert_eq!((other.name.as_str(), other.files.len()), ("other", 0));
        assert_eq!(find_in(None, OsStr::new("mine")).unwrap().name.as_str(), "mine");
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_by_rule() {
        let dir = Dir::new("refused");
        let long = dir.0.join("long.toml");
        File::create(&long).unwrap().set_len(100 << 20).unwrap();
        let fifo = dir.0.join("fifo.toml");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let binary = dir.write("binary.toml", b"\xff");
        let dangling = dir.0.join("dangling.toml");
        std::os::unix::fs::symlink("/nonexistent", &dangling).unwrap();
        for (path, rule) in [
            (&long, "profile.size"),
            (&fifo, "profile.type"),
            (&binary, "profile.utf8"),
            (&dangling, "profile.open"),
        ] {
            let failure = find_in(None, path.as_os_str()).err().unwrap();
            assert!(failure.to_string().contains(&format!("({rule})")), "{failure}");
        }
        // A user's own that is there but cannot be read is not silently another.
        assert!(find_in(Some(&dir.0), OsStr::new("dangling")).is_err());
        // Others that cannot be read are left out.
        let good = dir.write("good.toml", b"");
        assert_eq!(find_in(Some(&dir.0), good.as_os_str()).unwrap().files.len(), 1);
    }

    #[test]
    fn what_goes_along_is_bounded() {
        let dir = Dir::new("bounded");
        for i in 0..100 {
            dir.write(&format!("p{i:03}.toml"), &[b'#'; 20 << 10]);
        }
        let found = find_in(Some(&dir.0), OsStr::new("p000")).unwrap();
        assert_eq!(found.files.len(), 52);
        for i in 0..100 {
            dir.write(&format!("p{i:03}.toml"), b"#");
        }
        assert_eq!(find_in(Some(&dir.0), OsStr::new("p000")).unwrap().files.len(), MAX_FILES);
    }
}
