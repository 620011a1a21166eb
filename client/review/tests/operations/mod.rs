//! What a session does to files.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use agentd_review::change::Kind;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// One call or a few. Paths are below a top; many name nothing, or a file of another kind: then it fails.
#[derive(Clone, Debug)]
pub enum Operation {
    Create(PathBuf, u8, usize),
    Write(PathBuf, u64, u8),
    Append(PathBuf, u8),
    Truncate(PathBuf, u64),
    Delete(PathBuf),
    Rename(PathBuf, PathBuf),
    MakeDirectory(PathBuf),
    RemoveTree(PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, &'static str),
    Mode(PathBuf, u32),
    Attribute(PathBuf, u8),
    Touch(PathBuf),
    Replace(PathBuf, Kind),
}

/// One to three of three names, so that operations meet.
fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    proptest::collection::vec(name, 1..=3).prop_map(|names| names.iter().collect())
}

pub fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    // Few contents, so that some are equal; sizes around the unit of comparison.
    let byte = 0_u8..3;
    let size = prop_oneof![0_usize..3, 65_535_usize..65_538];
    let offset = prop_oneof![0_u64..3, 65_535_u64..65_538, Just(400_000)];
    let mode =
        prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0), Just(0o4755), Just(0o2750), Just(0o1777)];
    let target = prop_oneof![Just("a"), Just("b"), Just("a/b"), Just("nowhere")];
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::Device)
    ];
    prop_oneof![
        4 => (path(), byte.clone(), size).prop_map(|(path, byte, size)| Create(path, byte, size)),
        2 => (path(), offset.clone(), byte.clone()).prop_map(|(path, at, byte)| Write(path, at, byte)),
        1 => (path(), byte.clone()).prop_map(|(path, byte)| Append(path, byte)),
        1 => (path(), offset).prop_map(|(path, size)| Truncate(path, size)),
        2 => path().prop_map(Delete),
        6 => (path(), path()).prop_map(|(from, to)| Rename(from, to)),
        5 => path().prop_map(MakeDirectory),
        2 => path().prop_map(RemoveTree),
        1 => (path(), path()).prop_map(|(from, to)| Link(from, to)),
        1 => (path(), target).prop_map(|(path, target)| Symlink(path, target)),
        2 => (path(), mode).prop_map(|(path, mode)| Mode(path, mode)),
        1 => (path(), byte).prop_map(|(path, byte)| Attribute(path, byte)),
        1 => path().prop_map(Touch),
        2 => (path(), kind).prop_map(|(path, kind)| Replace(path, kind)),
    ]
}

/// A file without content of this kind.
pub fn node(path: &Path, kind: Kind) -> io::Result<()> {
    let (kind, device) = match kind {
        Kind::Fifo => (FileType::Fifo, 0),
        Kind::Socket => (FileType::Socket, 0),
        // As /dev/null: 0:0 is a whiteout.
        _ => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    };
    Ok(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device)?)
}

/// Fails for what is neither file nor directory.
fn plain(path: &Path) -> io::Result<()> {
    // Opening one would wait, and a device takes what is written.
    let meta = std::fs::metadata(path)?;
    if meta.is_file() || meta.is_dir() { Ok(()) } else { Err(rustix::io::Errno::NXIO.into()) }
}

impl Operation {
    /// Does it below `top`.
    pub fn run(&self, top: &Path) -> io::Result<()> {
        let at = |path: &Path| top.join(path);
        match self {
            Self::Create(path, byte, size) => {
                if let Err(error) = plain(&at(path))
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
                std::fs::write(at(path), vec![*byte; *size])
            }
            Self::Write(path, offset, byte) => {
                plain(&at(path))?;
                OpenOptions::new().write(true).open(at(path))?.write_all_at(&[*byte; 3], *offset)
            }
            Self::Append(path, byte) => {
                plain(&at(path))?;
                io::Write::write_all(&mut OpenOptions::new().append(true).open(at(path))?, &[*byte])
            }
            Self::Truncate(path, size) => {
                plain(&at(path))?;
                OpenOptions::new().write(true).open(at(path))?.set_len(*size)
            }
            Self::Delete(path) => std::fs::remove_file(at(path)),
            Self::Rename(from, to) => std::fs::rename(at(from), at(to)),
            Self::MakeDirectory(path) => std::fs::create_dir(at(path)),
            Self::RemoveTree(path) => std::fs::remove_dir_all(at(path)),
            Self::Link(from, to) => std::fs::hard_link(at(from), at(to)),
            Self::Symlink(path, target) => std::os::unix::fs::symlink(target, at(path)),
            Self::Mode(path, mode) => std::fs::set_permissions(at(path), Permissions::from_mode(*mode)),
            Self::Attribute(path, byte) => {
                // Some file systems have none.
                rustix::fs::lsetxattr(at(path), "user.test", &[*byte], XattrFlags::empty()).ok();
                Ok(())
            }
            Self::Touch(path) => {
                plain(&at(path))?;
                File::open(at(path))?.set_modified(std::time::SystemTime::now())
            }
            Self::Replace(path, kind) => {
                match at(path).symlink_metadata()?.is_dir() {
                    true => std::fs::remove_dir_all(at(path))?,
                    false => std::fs::remove_file(at(path))?,
                }
                match kind {
                    Kind::File => std::fs::write(at(path), "replaced"),
                    Kind::Directory => std::fs::create_dir(at(path)),
                    Kind::Symlink => std::os::unix::fs::symlink("elsewhere", at(path)),
                    other => node(&at(path), *other),
                }
            }
        }
    }
}
