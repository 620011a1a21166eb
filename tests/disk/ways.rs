//! Ways to hold more of the disk than one may. Each gains, where it succeeds, the disk of everybody else.

/// A way: its name, and a script that takes `SIZE` bytes and calls `hold`.
pub(crate) type Way = (&'static str, &'static str);

/// What each script begins with. `fill` writes as much as it can; `hold` stays.
pub(crate) const PRELUDE: &str = r"
import array, ctypes, mmap, os, socket, sys, threading, time
SIZE = 120 << 20
libc = ctypes.CDLL(None, use_errno=True)
def nameless(name='f'):
    fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)
    os.unlink(name)
    return fd
def fill(fd, size=SIZE):
    block, left = b'x' * (1 << 20), size
    while left > 0:
        left -= os.write(fd, block)
def park(sock, fd):
    sock.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
def take(sock):
    _, messages, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4))
    return array.array('i', messages[0][2])[0]
def hold():
    print('holds it', flush=True)
    time.sleep(60)
    print('still there', flush=True)
";

/// Every way round a count of names that we know of.
pub(crate) const WAYS: &[Way] = &[
    ("named", "fill(os.open('f', os.O_CREAT | os.O_RDWR, 0o600)); hold()"),
    ("unlinked", "f = nameless(); fill(f); hold()"),
    ("unlinked_slowly", "f = nameless()\nwhile True: fill(f, 4 << 20); time.sleep(0.05)"),
    (
        "replaced",
        "f = os.open('f', os.O_CREAT | os.O_RDWR)\nopen('g', 'w').close()\nos.rename('g', 'f'); fill(f); hold()",
    ),
    // Overlays have no O_TMPFILE before Linux 6.3: then it is unlinked.
    (
        "never_linked",
        "try: f = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600)
except OSError: f = nameless()
fill(f); hold()",
    ),
    ("allocated", "f = nameless(); os.posix_fallocate(f, 0, SIZE); hold()"),
    (
        "allocated_beyond_the_end",
        "f = nameless()\nassert libc.fallocate(f, 1, ctypes.c_long(0), ctypes.c_long(SIZE)) == 0\nhold()",
    ),
    (
        "many_small_ones",
        "fs = []\nfor i in range(500): fs.append(nameless()); fill(fs[-1], SIZE // 500)\nhold()",
    ),
    ("mapped", "f = nameless(); fill(f); m = mmap.mmap(f, SIZE); os.close(f); hold()"),
    (
        "written_by_mapping",
        "f = nameless(); os.ftruncate(f, SIZE); m = mmap.mmap(f, SIZE); os.close(f)
for at in range(0, SIZE, 4096): m[at] = 1
hold()",
    ),
    (
        "mapped_low",
        "f = nameless(); fill(f)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(ctypes.c_void_p(0x200000), ctypes.c_long(4096), 1, 0x11, f, ctypes.c_long(0))
assert at == 0x200000, (at, ctypes.get_errno())
os.close(f); hold()",
    ),
    (
        "in_a_table_of_a_thread",
        "def own():
    assert libc.unshare(0x400) == 0
    f = nameless(); fill(f); time.sleep(60)
threading.Thread(target=own).start(); hold()",
    ),
    (
        "held_by_a_call_that_waits",
        "f = nameless(); fill(f); a, b = socket.socketpair()
t = threading.Thread(target=lambda: os.sendfile(a.fileno(), f, 0, SIZE)); t.start()
time.sleep(0.3); os.close(f); hold()",
    ),
    ("parked", "f = nameless(); a, b = socket.socketpair(); park(a, f); fill(f); os.close(f); hold()"),
    (
        "parked_before_it_grows",
        "f = nameless(); a, b = socket.socketpair(); park(a, f); os.posix_fallocate(f, 0, SIZE); os.close(f); hold()",
    ),
    (
        "parked_in_what_is_parked",
        "f = nameless(); fill(f); a, b = socket.socketpair(); c, d = socket.socketpair()
park(a, f); os.close(f); park(c, b.fileno()); b.close(); a.close(); c.close(); hold()",
    ),
    (
        "parked_before_it_is_accepted",
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0x'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('\\0x')
f = nameless(); fill(f); park(c, f); os.close(f); c.close(); hold()",
    ),
    (
        "passed_to_and_fro",
        "a, b = socket.socketpair(); f = nameless(); fill(f)
def pass_on(sock):
    while True:
        fd = take(sock); park(sock, fd); os.close(fd)
park(a, f); os.close(f)
if os.fork() == 0: pass_on(a)
pass_on(b)",
    ),
    (
        "in_another_process",
        "f = nameless()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: fill(f); time.sleep(60)
    os._exit(0)
os.close(f); hold()",
    ),
];

/// Ways to take inodes: without bytes, they cost nothing that is counted in bytes, and counting them takes time.
pub(crate) const INODES: &[Way] = &[
    (
        "empty_files",
        "for k in range(20):
    os.mkdir(str(k)); d = os.open(str(k), os.O_RDONLY)
    for i in range(2000): os.mknod(str(i), 0o600, dir_fd=d)
hold()",
    ),
    ("symbolic_links", "for i in range(40000): os.symlink('x', str(i))\nhold()"),
    ("hard_links", "open('f', 'w').close()\nfor i in range(40000): os.link('f', str(i))\nhold()"),
    (
        "empty_ones_without_a_name",
        "import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for k in range(5):
    if os.fork() == 0:
        fs = [nameless(str(k)) for i in range(4000)]
        hold()
hold()",
    ),
];
