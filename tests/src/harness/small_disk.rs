//! A small file system of a test's own, in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One that is mounted, as long as the value lives.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes one of `kind` in `image`, of `size` bytes, and mounts it on `place`, which is made.
    ///
    /// # Panics
    /// If the host cannot.
    pub fn mount(kind: &str, size: u64, image: &Path, place: &Path) -> Self {
        std::fs::create_dir_all(place).expect("a new directory");
        std::fs::File::create(image).and_then(|file| file.set_len(size)).expect("a new file");
        let mkfs: &[&str] = match kind {
            "ext4" => &["mkfs.ext4", "-q", "-F", "-m", "0", "-i", "4096"],
            "xfs" => &["mkfs.xfs", "-q", "-f"],
            kind => panic!("{kind} is no kind of these"),
        };
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(image));
        let options = if kind == "xfs" { "loop,prjquota" } else { "loop" };
        run(Command::new("mount").args(["-t", kind, "-o", options]).arg(image).arg(place));
        Self(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is in use still is released by the process that uses it.
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
