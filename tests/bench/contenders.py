"""What `net.py` compares: a direct connection, agentd, and proxies and resolvers of Debian's, each started with a
configuration of its own in a directory of the benchmark's. All of them, and the server, are in the network namespace
that this program runs in."""

import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

BIN = os.environ["BIN"]
USER = pwd.getpwnam(os.environ["DEMO_USER"])
DIR = os.environ["DEMO_DIR"]
WORK = f"{USER.pw_dir}/bench"
# What sessions see of the benchmark.
LOAD = f"{DIR}/load"
# As private-daemon's agentd.toml has it.
POOL = range(1901000000, 1901004500)
NAME = "bench.example"
SERVER = "192.0.2.80"
RAW, TLS = "5000", "443"
FORWARDED = [5001, 5002]
START_TIMEOUT = 20.0
PR_SET_PDEATHSIG = 1


def die_with_us():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def until(what, is_so):
    end = time.monotonic() + START_TIMEOUT
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} does not come")
        time.sleep(0.05)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def answers(port):
    """Whether a resolver has an address for NAME."""
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(part)]) + part.encode() for part in NAME.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1)
        asker.connect(("127.0.0.1", port))
        try:
            asker.send(query + b"\0\0\1\0\1")
            return asker.recv(1232)[7] > 0
        except OSError:
            return False


def pss(pids):
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                total += next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except OSError:
            continue
    return total


def tree(pid):
    """It, and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="utf-8") as file:
                    found += map(int, file.read().split())
        except OSError:
            continue
    return found


class Program:
    """One that runs until `end`."""

    def __init__(self, argv, ready, **options):
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log(argv),
                                      preexec_fn=die_with_us, **options)
        until(argv[0], lambda: self.child.poll() is not None or ready())
        if self.child.poll() is not None:
            raise RuntimeError(f"{argv[0]} ended with {self.child.returncode}")

    @staticmethod
    def log(argv):
        return open(f"{DIR}/{os.path.basename(argv[0])}.log", "ab")

    def end(self):
        self.child.kill()
        self.child.wait()


class Worker:
    """A netload that measures, a line for each question."""

    def __init__(self, name, argv, pids=lambda: []):
        self.name = name
        self.pids = pids
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=WORK,
                                      user=USER.pw_uid, group=USER.pw_gid, extra_groups=[], preexec_fn=die_with_us,
                                      env={**os.environ, "HOME": USER.pw_dir})

    def ask(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: the worker has ended")
        figures = json.loads(answer)
        if "error" in figures:
            raise RuntimeError(f"{self.name}: {line}: {figures['error']}")
        return figures

    def end(self):
        self.child.stdin.close()
        self.child.wait()


def worker(name, *proxy, pids=lambda: []):
    argv = [f"{LOAD}/netload", "work", f"{NAME}={SERVER}", RAW, TLS, f"{LOAD}/cert.pem", *proxy]
    return Worker(name, argv, pids)


def forwarder():
    """What two system calls a message cost: two ports that lead to the server's, and nothing that looks at bytes."""
    ports = [str(port) for port in FORWARDED]
    programs = []
    for port, to in zip(ports, [RAW, TLS]):
        argv = ["/usr/bin/socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,nodelay", f"TCP:{SERVER}:{to},nodelay"]
        programs.append(Program(argv, lambda port=port: listens(int(port))))
    argv = [f"{LOAD}/netload", "work", f"{NAME}=127.0.0.1", *ports, f"{LOAD}/cert.pem"]
    return Worker("socat", argv), programs


def session():
    """A worker in a session that may reach one name, at two ports. It knows of no proxy."""
    argv = [f"{BIN}/agentctl", "run", "--rm", "--workspace", f"{WORK}:ro", "--read", LOAD]
    argv += ["--allow", f"{NAME}:{RAW}", "--allow", f"{NAME}:{TLS}"]
    argv += ["--", f"{LOAD}/netload", "work", NAME, RAW, TLS, f"{LOAD}/cert.pem"]
    return Worker("agentd", argv, helpers)


def leased():
    """Processes under a leased uid: (pid, name, uid)."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                name = file.read().strip()
        except OSError:
            continue
        if uid in POOL:
            yield int(pid), name, uid


def helpers():
    """Keeper, relay and init of the session that netload is in: three uids in a row, of which its own is the last."""
    found = list(leased())
    agent = next(uid for _, name, uid in found if name == "netload")
    return [pid for pid, name, uid in found if name.startswith("agentd-") and agent - 2 <= uid <= agent]


def written(name, text, owner=None):
    """A configuration in a directory of its own."""
    place = f"{DIR}/{name}"
    os.mkdir(place)
    if owner:
        shutil.chown(place, owner)
    with open(f"{place}/conf", "w", encoding="utf-8") as file:
        file.write(text.replace("HERE", place))
    return f"{place}/conf"


def squid(port):
    conf = written("squid", f"""
http_port 127.0.0.1:{port}
http_access allow all
cache deny all
access_log HERE/access.log
cache_log HERE/cache.log
pid_filename none
coredump_dir HERE
netdb_filename none
pinger_enable off
max_filedescriptors 16384
visible_hostname {NAME}
""", "proxy")
    return Program(["/usr/sbin/squid", "-N", "-f", conf], lambda: listens(port))


def tinyproxy(port):
    """Its log is synced after each line, which would be all that is measured of new connections."""
    conf = written("tinyproxy", f"""
Listen 127.0.0.1
Port {port}
Timeout 600
MaxClients 4096
LogLevel Error
LogFile "HERE/log"
""")
    return Program(["/usr/bin/tinyproxy", "-d", "-c", conf], lambda: listens(port))


def mitmproxy(port):
    argv = ["/usr/bin/mitmdump", "--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    argv += ["--ignore-hosts", ".*", "--set", f"confdir={DIR}/mitmproxy"]
    return Program(argv, lambda: listens(port))


def dnsmasq(port):
    argv = ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]
    argv += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file="]
    return Program([*argv, f"--server={SERVER}", "--cache-size=1000"], lambda: answers(port))


def unbound(port):
    conf = written("unbound", f"""
server:
    interface: 127.0.0.1
    port: {port}
    do-not-query-localhost: no
    module-config: "iterator"
    username: ""
    chroot: ""
    directory: "HERE"
    pidfile: ""
    use-syslog: no
forward-zone:
    name: "."
    forward-addr: {SERVER}
remote-control:
    control-enable: no
""")
    return Program(["/usr/sbin/unbound", "-d", "-c", conf], lambda: answers(port))


PROXIES = {"squid": ("/usr/sbin/squid", squid, 3128), "tinyproxy": ("/usr/bin/tinyproxy", tinyproxy, 3129),
           "mitmproxy": ("/usr/bin/mitmdump", mitmproxy, 3130)}
RESOLVERS = {"dnsmasq": ("/usr/sbin/dnsmasq", dnsmasq, 5301), "unbound": ("/usr/sbin/unbound", unbound, 5302)}


def server():
    """The far end, on the loopback of this namespace."""
    os.mkdir(LOAD)
    shutil.copy(os.environ["NETLOAD"], LOAD)
    key = f"{DIR}/key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "7", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
                    "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", f"{LOAD}/cert.pem"],
                   check=True, stderr=subprocess.DEVNULL)
    for line in ["link set lo up", f"addr add {SERVER}/32 dev lo"]:
        subprocess.run(["ip", *line.split()], check=True)
    argv = [f"{LOAD}/netload", "serve", SERVER, RAW, TLS, f"{LOAD}/cert.pem", key]

    def ready():
        try:
            socket.create_connection((SERVER, int(TLS)), 1).close()
            return True
        except OSError:
            return False

    return Program(argv, ready)
