//! Languages and what builds, tests and installs in them, without a network.

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

use super::{has, same};

pub const TESTS: &[Named] =
    tests![go, npm, node_tests, pip_and_venv, python_processes, java, php, perl, ruby, c, sanitizers, cmake,];

/// Tests are built and run below /tmp.
fn go(world: &World) {
    if !has(&["go"]) {
        return;
    }
    let script = r#"set -e; export GOPROXY=off GOFLAGS=-mod=mod
        printf 'module example.org/m\ngo 1.16\n' > go.mod; mkdir cmd; echo 'package m' > m.go
        printf 'package main\nfunc main() { println("ran") }\n' > cmd/main.go
        cat > m_test.go <<'GO'
package m
import ("os"; "os/exec"; "testing")
func TestIt(t *testing.T) {
    dir := t.TempDir()
    if err := os.Mkdir(dir+"/a", 0700); err != nil { t.Fatal(err) }
    if err := os.Rename(dir+"/a", dir+"/b"); err != nil { t.Fatal(err) }
    if err := exec.Command("true").Run(); err != nil { t.Fatal(err) }
}
GO
        go test ./... | awk '{print $1, $2}'; go run ./cmd 2>&1; go build -o built ./cmd; ./built 2>&1"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.ends_with("ran\nran\n") && said.contains("ok example.org/m"), "{said}");
}

fn npm(world: &World) {
    if !has(&["npm", "node"]) {
        return;
    }
    let script = r#"set -e; export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
        mkdir dep app; printf '#!/usr/bin/env node\nconsole.log("dep ran")\n' > dep/i.js
        echo '{"name":"dep","version":"1.0.0","bin":"i.js","scripts":{"postinstall":"touch installed"}}' > dep/package.json
        echo '{"name":"app","version":"1.0.0","dependencies":{"dep":"file:../dep"},"scripts":{"go":"dep"}}' > app/package.json
        cd app; npm install --offline --silent; readlink node_modules/dep; ls ../dep; npm run -s go
        npm pack --silent ../dep; npm install --offline --silent ./dep-1.0.0.tgz; npm ls --parseable | sed "s|$PWD||""#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("dep ran\ndep-1.0.0.tgz\n"), "{said}");
}

fn node_tests(world: &World) {
    if !has(&["node"]) {
        return;
    }
    let script = r"cat > x.test.js <<'JS'
const test = require('node:test'), fs = require('fs'), os = require('os'), net = require('net'), http = require('http');
const { execFileSync } = require('child_process'), { Worker } = require('worker_threads'), cluster = require('cluster');
const settled = start => new Promise((done, failed) => start(done, failed));
test('files', () => {
  const dir = fs.mkdtempSync(os.tmpdir() + '/x'); fs.mkdirSync(dir + '/a/b', { recursive: true });
  fs.renameSync(dir + '/a', dir + '/c'); fs.rmSync(dir, { recursive: true });
});
test('a child', () => execFileSync(process.execPath, ['-e', '0']));
test('a worker', () => settled((done, failed) => new Worker('0', { eval: true }).on('exit', code => code ? failed(code) : done())));
test('localhost', () => settled((done, failed) => {
  const server = http.createServer((_, answer) => answer.end('x')).listen(0, 'localhost', () =>
    http.get('http://localhost:' + server.address().port, got => { got.resume(); got.on('end', () => { server.close(); done(); }); }).on('error', failed));
}));
test('a socket in the workspace', () => settled((done, failed) => {
  const server = net.createServer(to => to.end('x')).listen(process.cwd() + '/s', () =>
    net.connect(process.cwd() + '/s').on('data', () => { server.close(); done(); }).on('error', failed));
}));
test('a watch', () => settled(done => { const watch = fs.watch('.', () => { watch.close(); done(); }); fs.writeFileSync('w', ''); }));
test('a cluster', () => settled(done => { cluster.setupPrimary({ exec: 'c.js' }); const one = cluster.fork(); one.on('message', () => { one.kill(); done(); }); }));
JS
        echo 'require(`http`).createServer(() => {}).listen(0, () => process.send(`up`))' > c.js
        node --test x.test.js | grep -E '^(# |ℹ )(pass|fail)|error:'";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("fail 0"), "{said}");
}

fn pip_and_venv(world: &World) {
    if !has(&["python3", "pip3"]) {
        return;
    }
    let script = r#"set -e; mkdir -p p/pk; printf 'def main(): print("installed")\n' > p/pk/__init__.py
        cat > p/setup.py <<'PY'
from setuptools import setup
setup(name="pk", version="1.0", packages=["pk"], entry_points={"console_scripts": ["pkc=pk:main"]})
PY
        /usr/bin/python3 -m venv --system-site-packages --without-pip v
        pip="/usr/bin/python3 -m pip -q --disable-pip-version-check --python v/bin/python"
        $pip wheel --no-index --no-build-isolation --no-deps -w w ./p; ls w
        $pip install --no-index w/pk-1.0-py3-none-any.whl; v/bin/pkc; $pip uninstall -y pk
        $pip install --no-index --no-build-isolation ./p; v/bin/pkc; v/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)'"#;
    let said = same(world, &[], &|_| {}, script);
    assert_eq!(said, "pk-1.0-py3-none-any.whl\ninstalled\ninstalled\nTrue\n");
}

fn python_processes(world: &World) {
    if !has(&["python3"]) {
        return;
    }
    let script = r"cat > p.py <<'PY'
import concurrent.futures as futures, getpass, grp, multiprocessing as m, os, pwd, socket, time
from multiprocessing import managers, shared_memory
def square(x): return x * x
if __name__ == '__main__':
    for way in ('fork', 'spawn', 'forkserver'):
        with m.get_context(way).Pool(2) as pool: print(way, pool.map(square, range(4)))
    with futures.ProcessPoolExecutor(2) as pool: print(list(pool.map(square, [1, 2])))
    memory = shared_memory.SharedMemory(create=True, size=10); memory.buf[0] = 1; memory.close(); memory.unlink()
    with m.Lock(): pass
    queue = m.Queue(); queue.put(1); print(queue.get())
    with managers.SyncManager() as manager: print(dict(manager.dict(a=1)))
    print(getpass.getuser(), pwd.getpwuid(os.getuid())[0], grp.getgrgid(os.getgid())[0])
    print(socket.gethostbyname('localhost'), os.sysconf('SC_NPROCESSORS_ONLN'))
    print(os.nice(1), os.posix_spawn('/bin/true', ['true'], {}) > 0, os.pidfd_open(os.getpid()) > 0)
    print(time.clock_gettime(time.CLOCK_BOOTTIME) > 0, os.getloadavg()[0] >= 0)
PY
        /usr/bin/python3 p.py";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("forkserver [0, 1, 4, 9]\n"), "{said}");
}

fn java(world: &World) {
    if !has(&["java", "javac"]) {
        return;
    }
    let script = r#"cat > A.java <<'JAVA'
import java.net.*; import java.nio.channels.FileChannel; import java.nio.file.*; import java.util.concurrent.TimeUnit;
public class A {
    public static void main(String[] a) throws Exception {
        Path dir = Files.createTempDirectory("x"); Files.createDirectories(dir.resolve("a/b"));
        Files.move(dir.resolve("a"), dir.resolve("c")); System.out.println(Files.exists(dir.resolve("c/b")));
        WatchService watch = FileSystems.getDefault().newWatchService(); dir.register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        Files.writeString(dir.resolve("n"), "x"); System.out.println(watch.poll(10, TimeUnit.SECONDS) != null);
        ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        new Socket(server.getInetAddress(), server.getLocalPort()).close(); server.accept().close();
        Process echo = new ProcessBuilder("echo", "hi").start(); System.out.print(new String(echo.getInputStream().readAllBytes()));
        System.out.println(System.getProperty("user.name") + System.getProperty("java.io.tmpdir"));
        System.out.println(InetAddress.getLocalHost().getHostName().isEmpty());
        System.out.println(FileChannel.open(Path.of("lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE).lock().isValid());
    }
}
JAVA
        java A.java 2>&1"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.starts_with("true\ntrue\nhi\n"), "{said}");
}

fn php(world: &World) {
    if !has(&["php"]) {
        return;
    }
    let script = r#"php -m; php -r 'session_save_path("."); session_start(); $id = strlen(session_id()) > 0; file_put_contents("f", "x");
        echo filesize("f"), "\n", $id, "\n"; if (class_exists("SQLite3")) { $d = new SQLite3("x.db"); $d->exec("create table t(a)"); echo "db\n"; }'"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("\n1\n1\n"), "{said}");
}

fn perl(world: &World) {
    if !has(&["perl"]) {
        return;
    }
    let script = r#"perl -MSocket -MFile::Temp=tempdir -e 'my $d = tempdir(CLEANUP => 1); open my $f, ">", "$d/x"; flock($f, 2) or die;
        socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; my $p = fork; if (!$p) { syswrite $b, "hi\n"; exit 3 }
        print scalar <$a>; waitpid $p, 0; print $? >> 8, "\n"; print join(":", (getpwuid($<))[0, 2, 3, 7, 8]), "\n"'"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.starts_with("hi\n3\n"), "{said}");
}

fn ruby(world: &World) {
    if !has(&["ruby"]) {
        return;
    }
    let script = r#"ruby -rsocket -rtmpdir -rfileutils -ropen3 -retc -e 'Dir.mktmpdir { |d| FileUtils.mkdir_p d + "/a/b"
        File.rename d + "/a", d + "/c"; puts Dir.children(d) }; server = TCPServer.new "127.0.0.1", 0
        Thread.new { c = server.accept; c.puts "x"; c.close }; puts TCPSocket.new("127.0.0.1", server.addr[1]).gets
        puts Open3.capture2("cat", stdin_data: "y")[0], Etc.getpwuid.name, `echo z`'; gem list --local | wc -l"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.starts_with("c\nx\ny\n"), "{said}");
}

fn c(world: &World) {
    if !has(&["gcc", "make"]) {
        return;
    }
    let script = r#"set -e; for i in 1 2 3 4; do echo "int f$i() { return $i; }" > f$i.c; done
        echo 'int f1(), f4(); int main() { return f1() + f4() - 5; }' > main.c
        printf 'm: main.o f1.o f2.o f3.o f4.o\n\tgcc -o $@ $^\n' > Makefile; make -j4 2>&1 | sort; ./m
        gcc -pg -o p main.c f1.c f4.c; ./p; ls gmon.out; gcc --coverage -o v main.c f1.c f4.c; ./v; ls *.gcda"#;
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("gmon.out"), "{said}");
}

/// They lay out the address space by themselves, and one of them traces its own process.
fn sanitizers(world: &World) {
    if !has(&["gcc"]) {
        return;
    }
    let script = r"cat > a.c <<'C'
#include <pthread.h>
#include <stdlib.h>
int g; void *f(void *p) { g++; return 0; }
int main() { pthread_t t; pthread_create(&t, 0, f, 0); g++; pthread_join(t, 0); char *volatile p = malloc(3); p = 0; return 0; }
C
        gcc -g -fsanitize=thread a.c -o t; ./t 2>&1 | grep -m 1 -o 'data race'; gcc -g -fsanitize=address a.c -o l; ./l 2>&1 | grep SUMMARY
        gcc -g -fsanitize=leak a.c -o k; ./k 2>&1 | grep SUMMARY; gcc -fsanitize=undefined a.c -o u && ./u";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("\nSUMMARY: AddressSanitizer: 3 byte(s)"), "{said}");
}

fn cmake(world: &World) {
    if !has(&["cmake", "gcc", "make"]) {
        return;
    }
    let script = r"set -e; echo 'int main() { return 0; }' > m.c
        printf 'cmake_minimum_required(VERSION 3.10)\nproject(x C)\nenable_testing()\nadd_executable(x m.c)\nadd_test(NAME t COMMAND x)\n' > CMakeLists.txt
        cmake -S . -B b > /dev/null; cmake --build b -j2 | grep -c Built; ctest --test-dir b | grep 'tests passed'";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.contains("100% tests passed"), "{said}");
}
