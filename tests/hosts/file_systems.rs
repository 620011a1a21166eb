//! A home and a workspace on file systems of every kind: usable, or refused for the reason that doctor gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use agentd_tests::harness::{Session, World, text_at};

use crate::rows::doctor;
use crate::run;

/// A kind of file system.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What makes one in a file; empty if it needs none.
    mkfs: &'static [&'static str],
    /// Whether mounts of it can be id-mapped on every kernel that agentd runs on; else doctor's word holds.
    always: bool,
}

pub(crate) const KINDS: [Kind; 5] = [
    Kind { name: "ext4", mkfs: &["mkfs.ext4", "-q", "-F"], always: true },
    Kind { name: "xfs", mkfs: &["mkfs.xfs", "-q", "-f"], always: true },
    Kind { name: "btrfs", mkfs: &["mkfs.btrfs", "-q", "-f"], always: true },
    Kind { name: "tmpfs", mkfs: &[], always: false },
    Kind { name: "overlay", mkfs: &[], always: false },
];

/// The smallest that all of them can be made in.
const SIZE: u64 = 400 << 20;

/// A mount that goes with the value.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is in use still is released by the process that uses it.
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// Mounts a new file system of this kind on `place`; files of it are in `dir`.
fn mount(kind: &Kind, dir: &Path, place: &Path) -> Mounted {
    let mut mount = Command::new("mount");
    mount.args(["-t", kind.name]);
    match (kind.name, kind.mkfs) {
        ("overlay", _) => {
            let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.join(name));
            for layer in [&lower, &upper, &work] {
                std::fs::create_dir(layer).expect("a new directory");
            }
            mount.arg("-o").arg(format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                work.display()
            ));
            mount.arg("none");
        }
        (_, [mkfs, options @ ..]) => {
            let image = dir.join("image");
            std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("a new file");
            run(Command::new(mkfs).args(options).arg(&image));
            mount.args(["-o", "loop"]).arg(image);
        }
        _ => {
            mount.arg("none");
        }
    }
    run(mount.arg(place));
    Mounted(place.to_owned())
}

fn is_known(kind: &Kind) -> bool {
    // It is loaded at its first use, or was built in.
    Command::new("modprobe").args(["-q", kind.name]).status().ok();
    let known = std::fs::read_to_string("/proc/filesystems").expect("/proc/filesystems");
    known.lines().any(|line| line.split_whitespace().last() == Some(kind.name))
}

pub(crate) fn home_and_workspace(world: &World, kind: &Kind) {
    if !is_known(kind) {
        eprintln!("SKIPPED: this kernel has no {}", kind.name);
        return;
    }
    let home = world.a().home.clone();
    let _mounted = mount(kind, &world.daemon().dir, &home);
    world.a().own(&home);
    let rows = doctor(world);
    let row = &rows[&format!("idmap.{}", kind.name)];
    let can = text_at(row, "/status") == "ok";
    assert!(text_at(row, "/found").contains(&home.display().to_string()), "{row}");
    assert!(can || !kind.always, "{row}");
    for mode in ["ro", "overlay", "direct"] {
        let workspace = world.workspace(world.a());
        let work = format!("{}:{mode}", workspace.display());
        let session = Session::new(world, world.a(), &workspace).options(["--workspace", &work]);
        let output = session.bash("if ! echo x > made; then echo read-only; fi; pwd");
        if !can {
            assert!(output.stderr.contains("(path.idmap)"), "{mode}: {}", output.stderr);
            output.expect_code(125);
            continue;
        }
        let said = output.expect_code(0).text();
        assert!(said.contains(&workspace.display().to_string()), "{mode}: {said}");
        assert_eq!(said.contains("read-only"), mode == "ro", "{mode}: {said}");
        let made = std::fs::metadata(workspace.join("made"));
        assert_eq!(made.is_ok(), mode == "direct", "{mode}: {made:?}");
        if let Ok(made) = made {
            let owner = std::os::unix::fs::MetadataExt::uid(&made);
            assert_eq!(owner, world.a().uid, "a file on the disk is the caller's");
        }
    }
}
