//! What builds and installs by way of other programs, without a network; and a browser that a program drives.

use std::path::{Path, PathBuf};
use std::process::Command;

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

use super::{has, same};

pub const TESTS: &[Named] = tests![gradle, maven, pnpm, uv, chromium_by_playwright,];

/// A program that `make setup-test` has installed, for no distribution has it; nothing, and a line, if it is missing.
fn tool(path: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools");
    let found = tools.join(path);
    if !found.exists() {
        eprintln!("NOT TRIED: {} is missing (make setup-test)", found.display());
    }
    found.exists().then_some(found)
}

/// Has `dir` hold a copy of `tool` that its owner may use.
fn copy(world: &World, tool: &Path, dir: &Path) {
    let script =
        "cp -rL --no-preserve=ownership -- \"$0\" \"$1\" && chown -R \"$2:\" \"$1/$(basename \"$0\")\"";
    let status = Command::new("bash").args(["-c", script]).arg(tool).arg(dir).arg(&world.a().name).status();
    assert!(status.is_ok_and(|status| status.success()), "{}", tool.display());
}

const SOURCE: &str = r#"set -e; mkdir -p src/main/java/x
    echo 'package x; public class A { public static void main(String[] a) { System.out.println("built"); } }' > src/main/java/x/A.java
"#;

fn gradle(world: &World) {
    if !has(&["gradle", "javac"]) {
        return;
    }
    let script = "echo \"apply plugin: 'java'\" > build.gradle
        gradle --offline --no-daemon -q build 2>/dev/null | grep -v '^OpenJDK\\|^openjdk' || test ${PIPESTATUS[0]} = 0
        java -cp build/libs/*.jar x.A; gradle --offline --no-daemon -q clean >/dev/null 2>&1; ls";
    let said = same(world, &["--memory", "4G"], &|_| {}, &format!("{SOURCE}{script}"));
    assert_eq!(said, "built\nbuild.gradle\nsrc\n");
}

/// With Debian's own repository of plugins, of which the local one is links.
fn maven(world: &World) {
    let plugin = Path::new("/usr/share/maven-repo/org/apache/maven/plugins/maven-jar-plugin");
    if !has(&["mvn", "javac"]) || !plugin.exists() {
        eprintln!("NOT TRIED: {} is missing", plugin.display());
        return;
    }
    let script = r#"cat > pom.xml <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>x</groupId><artifactId>a</artifactId><version>1</version><properties>
<maven.compiler.source>11</maven.compiler.source><maven.compiler.target>11</maven.compiler.target>
<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties></project>
POM
        mkdir -p $HOME/.m2; cp -rs /usr/share/maven-repo $HOME/.m2/repository
        mvn -o -q -B package; java -cp target/a-1.jar x.A; rm -r $HOME/.m2"#;
    let said = same(world, &["--memory", "4G"], &|_| {}, &format!("{SOURCE}{script}"));
    assert!(said.ends_with("built\n"), "{said}");
}

fn pnpm(world: &World) {
    let Some(pnpm) = tool("node_modules/pnpm").filter(|_| has(&["node"])) else { return };
    let script = r#"set -e; export CI=1 npm_config_update_notifier=false
        mkdir dep app; echo 'console.log("dep ran")' > dep/i.js; echo '{"name":"dep","version":"1.0.0","main":"i.js"}' > dep/package.json
        echo '{"name":"app","version":"1.0.0","dependencies":{"dep":"file:../dep"},"scripts":{"go":"node -e \"require(\\\"dep\\\")\""}}' > app/package.json
        cd app; node ../pnpm/bin/pnpm.cjs install --offline --store-dir ../store --silent; test -L node_modules/dep
        node ../pnpm/bin/pnpm.cjs --silent run go"#;
    assert_eq!(same(world, &[], &|dir| copy(world, &pnpm, dir), script), "dep ran\n");
}

fn uv(world: &World) {
    let Some(uv) = tool("python/bin/uv").filter(|_| has(&["python3"])) else { return };
    let script = r#"set -e; export UV_OFFLINE=1 UV_NO_PROGRESS=1 UV_CACHE_DIR=$PWD/cache UV_PYTHON_DOWNLOADS=never
        mkdir -p w/m-1.dist-info; echo 'def main(): print("ran")' > w/m.py
        printf 'Metadata-Version: 2.1\nName: m\nVersion: 1\n' > w/m-1.dist-info/METADATA
        printf 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n' > w/m-1.dist-info/WHEEL
        printf '[console_scripts]\nm = m:main\n' > w/m-1.dist-info/entry_points.txt
        printf 'm.py,,\nm-1.dist-info/METADATA,,\nm-1.dist-info/WHEEL,,\nm-1.dist-info/entry_points.txt,,\nm-1.dist-info/RECORD,,\n' > w/m-1.dist-info/RECORD
        (cd w && python3 -m zipfile -c ../m-1-py3-none-any.whl m.py m-1.dist-info)
        ./uv -q venv -p /usr/bin/python3 v; ./uv -q pip install -p v ./m-1-py3-none-any.whl; v/bin/m; ./uv pip list -p v"#;
    let said = same(world, &[], &|dir| copy(world, &uv, dir), script);
    assert!(said.starts_with("ran\n") && said.contains("\nm "), "{said}");
}

/// Without its own sandbox, as playwright starts it: user namespaces are not for sessions.
fn chromium_by_playwright(world: &World) {
    let Some(playwright) = tool("node_modules/playwright-core").filter(|_| has(&["chromium", "node"])) else {
        return;
    };
    let script = r#"cat > t.js <<'JS'
const { chromium } = require('./playwright-core');
const args = ['--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args });
  const page = await browser.newPage();
  await page.goto('file://' + process.cwd() + '/p.html');
  await page.click('button');
  console.log(await page.textContent('button'), await page.evaluate(() => new Promise(done => {
    const worker = new Worker(URL.createObjectURL(new Blob(['postMessage(6 * 7)'])));
    worker.onmessage = message => done(message.data);
  })));
  const shot = await page.screenshot();
  console.log(shot.length > 1000, (await page.pdf()).length > 1000);
  await browser.close();
})().catch(error => { console.log(String(error)); process.exit(1); });
JS
        echo '<!doctype html><button onclick="this.textContent=`clicked`">x</button>' > p.html; node t.js"#;
    let said = same(world, &["--memory", "4G"], &|dir| copy(world, &playwright, dir), script);
    assert_eq!(said, "clicked 42\ntrue true\n");
}
