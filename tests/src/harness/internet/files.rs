//! What the servers serve, made anew each time: an authority and its certificate, pages, repositories, packages.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::super::users::User;
use super::names;

/// What marks the line of ours among the keys that open user b's account.
const KEY_MARK: &str = "agentd-test-internet";

/// Makes all of it in `dir`.
pub fn make(dir: &Path, owner: &User) {
    std::fs::create_dir_all(dir.join("tmp")).expect("a new temporary directory");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a new file");
    write("nginx.conf", &include_str!("nginx.conf").replace("{dir}", &dir.display().to_string()));
    write("app.py", include_str!("app.py"));
    write("loose.py", include_str!("loose.py"));
    write("loose.js", include_str!("loose.js"));
    write("resolv.conf", "nameserver 192.0.2.53\noptions timeout:2 attempts:1\n");
    certificates(dir);
    for name in ["good.test", "git.test", "pypi.test/simple/thing", "npm.test"] {
        std::fs::create_dir_all(dir.join("www").join(name)).expect("a new directory");
    }
    run(dir, "openssl", &["rand", "-out", "www/good.test/bulk", "16777216"]);
    repository(dir);
    packages(dir);
    keys(dir, owner);
}

/// Takes away what is outside of the directory.
pub fn forget(owner: &User) {
    let file = owner.home.join(".ssh/authorized_keys");
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    let mark = format!("{KEY_MARK}-{}", std::process::id());
    let others: Vec<&str> = text.lines().filter(|line| !line.ends_with(&mark)).collect();
    if others.is_empty() {
        std::fs::remove_file(&file).ok();
    } else {
        owner.write(&file, others.join("\n") + "\n");
    }
    std::fs::remove_dir_all(owner.home.join(repository_name())).ok();
}

/// Of the repository in user b's home that is there for ssh.
pub fn repository_name() -> String {
    format!("net-{}.git", std::process::id())
}

/// Runs `program` in `dir`.
fn run(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", dir)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

fn certificates(dir: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let with =
        |more: &[&'static str]| -> Vec<&str> { ["req"].iter().chain(&key).chain(more).copied().collect() };
    let subject = "/CN=Authority of the tests";
    run(
        dir,
        "openssl",
        &with(&["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", subject]),
    );
    run(dir, "openssl", &with(&["-keyout", "cert.key", "-out", "cert.csr", "-subj", "/CN=good.test"]));
    let names: Vec<String> = names::CERTIFIED.iter().map(|name| format!("DNS:{name}")).collect();
    let text = format!("subjectAltName={}\nbasicConstraints=CA:FALSE\n", names.join(","));
    std::fs::write(dir.join("cert.ext"), text).expect("a new file");
    let sign = "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile cert.ext";
    run(dir, "openssl", &sign.split(' ').collect::<Vec<_>>());
    // The right name, by nobody's word but its own.
    let own =
        "-x509 -keyout own.key -out own.pem -days 2 -subj /CN=dns.test -addext subjectAltName=DNS:dns.test";
    run(dir, "openssl", &with(&own.split(' ').collect::<Vec<_>>()));
}

/// A bare repository with a file `README`, to be cloned from a web server that knows nothing of git.
fn repository(dir: &Path) {
    let script = "set -e; git init -q -b main work; cd work; echo 'a cloned line' > README; git add README
        git -c user.name=a -c user.email=a@b.test commit -q -m first
        git clone -q --bare . ../www/git.test/repo.git; cd ../www/git.test/repo.git; git update-server-info";
    run(dir, "bash", &["-c", script]);
}

/// One package for pip and one for npm, each as its index serves it.
fn packages(dir: &Path) {
    let wheel = r"import zipfile
with zipfile.ZipFile('www/pypi.test/thing-1.0-py3-none-any.whl', 'w') as z:
    z.writestr('thing.py', 'said = \'from the index\'\n')
    z.writestr('thing-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n')
    z.writestr('thing-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    z.writestr('thing-1.0.dist-info/RECORD', 'thing.py,,\nthing-1.0.dist-info/METADATA,,\nthing-1.0.dist-info/WHEEL,,\nthing-1.0.dist-info/RECORD,,\n')
";
    run(dir, "python3", &["-c", wheel]);
    let page = "<!DOCTYPE html><a href=\"/thing-1.0-py3-none-any.whl\">thing-1.0-py3-none-any.whl</a>\n";
    std::fs::write(dir.join("www/pypi.test/simple/thing/index.html"), page).expect("a new file");
    let package = dir.join("package");
    std::fs::create_dir_all(&package).expect("a new directory");
    let manifest = "{\"name\":\"thing\",\"version\":\"1.0.0\",\"main\":\"index.js\"}\n";
    std::fs::write(package.join("package.json"), manifest).expect("a new file");
    std::fs::write(package.join("index.js"), "module.exports = 'from the registry'\n").expect("a new file");
    run(dir, "tar", &["-czf", "www/npm.test/thing-1.0.0.tgz", "package"]);
    let version = "{\"name\":\"thing\",\"version\":\"1.0.0\",\"dist\":{\"tarball\":\"https://npm.test/thing-1.0.0.tgz\"}}";
    let index = format!(
        "{{\"name\":\"thing\",\"dist-tags\":{{\"latest\":\"1.0.0\"}},\"versions\":{{\"1.0.0\":{version}}}}}\n"
    );
    std::fs::write(dir.join("www/npm.test/thing"), index).expect("a new file");
}

/// A key of the ssh server, and one that opens `owner`'s account there and nowhere else.
fn keys(dir: &Path, owner: &User) {
    run(dir, "dropbearkey", &["-t", "ed25519", "-f", "host_key"]);
    run(dir, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "id_ssh"]);
    let public = std::fs::read_to_string(dir.join("id_ssh.pub")).expect("a public key");
    let file = owner.home.join(".ssh/authorized_keys");
    let others = std::fs::read_to_string(&file).unwrap_or_default();
    owner.write(&file, format!("{others}{} {KEY_MARK}-{}\n", public.trim(), std::process::id()));
    for (path, mode) in [(owner.home.join(".ssh"), 0o700), (file, 0o600)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root's to say");
    }
    let to = owner.home.join(repository_name());
    let copy = format!(
        "cp -r www/git.test/repo.git {0} && chown -R {1}:{2} {0}",
        to.display(),
        owner.uid,
        owner.gid
    );
    run(dir, "sh", &["-c", &copy]);
}
