"""What differs between hosts: kernel, cgroups, file systems, modules."""

import json
import re

from . import check, need


@check
def what_it_is(run):
    """The point of this machine: systemd, pure cgroup v2, AppArmor, an older Landlock."""
    vm = run.vm
    need(vm.sh("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs", "not pure cgroup v2")
    need("apparmor" in vm.sh("cat /sys/kernel/security/lsm"), "no AppArmor")
    need(vm.sh("cat /sys/module/apparmor/parameters/enabled").strip() == "Y", "AppArmor is off")
    return vm.sh("uname -r").strip()


def rows(run, user="alice", options="--no-canary", good=None):
    """What doctor says to `user`: rows by name."""
    result = run.vm.user(user, f"agentctl doctor --json {options}")
    found = {row["name"]: row for row in (json.loads(line) for line in result.out.splitlines() if line.startswith("{"))}
    need(found and (good is None or good == (result.code == 0)), repr(result))
    for row in found.values():
        need(row["status"] == "ok" or row["impact"] and row["fix"], f"a lack without impact or fix: {row}")
    return found


@check
def doctor(run):
    """Nothing is missing on this host in the daemon's eyes, and what is as it should be has its row."""
    found = rows(run, options="", good=True)
    for name, wanted in {
        "kernel": "Linux 6.1.", "cgroup.v2": "agentd-sessions.scope; no v1 hierarchy", "cgroup.memory": "in cgroup2",
        "cgroup.pids": "in cgroup2", "cgroup.cpu": "in cgroup2", "cgroup.birth": "", "namespaces.unprivileged": "kernel.unprivileged_userns_clone = 1",
        "landlock": "ABI 2,", "lsm": "AppArmor", "idmap.ext4": "/var/lib/agentd /home/alice /tmp", "loopback": "", "nf_tables": "",
        "nflog": "", "overlayfs": "", "pool.uids": "reserved and free", "canary.connect": "",
    }.items():
        need(wanted in found[name]["found"], f"{name}: {found.get(name)}")
        need(found[name]["status"] == ("reduced" if name == "landlock" else "ok"), f"{name}: {found[name]}")
    need(found["idmap.tmpfs"]["status"] == "reduced" and "6.3" in found["idmap.tmpfs"]["fix"], found["idmap.tmpfs"])
    return f"{len(found)} rows"


@check
def a_filter_on_the_slice(run):
    """`IPAddressDeny=` above sessions drops packets inside them: doctor says so, and what it says to do helps."""
    vm = run.vm
    vm.sh("systemctl set-property --runtime agentd.slice IPAddressDeny=any")
    row = rows(run, good=False)["loopback"]
    need(row["status"] == "missing" and "packets are lost" in row["found"], row)
    fix = "systemctl set-property agentd.slice IPAddressAllow=any"
    need(fix in row["fix"], row)
    vm.sh(fix)
    need(rows(run, good=True)["loopback"]["status"] == "ok", "the fix does not help")
    vm.sh("systemctl set-property --runtime agentd.slice IPAddressDeny=; systemctl set-property agentd.slice IPAddressAllow=; systemctl daemon-reload")


@check
def limits_on_real_controllers(run):
    """memory, pids and cpu of cgroup v2, each reached."""
    result = run.alice("agentctl run --name big --memory 64M -- python3 -c 'x = b\"x\" * (256 << 20)'")
    need(result.code == 137, f"memory: {result!r}")
    need('"limit.hit"' in run.alice("agentctl events big --json").out, "memory: no event")
    result = run.alice("agentctl run --pids 20 -- bash -c 'for i in $(seq 50); do sleep 5 & done' 2>&1")
    need("Resource temporarily unavailable" in result.out, f"pids: {result!r}")
    spin = "import time; e = time.monotonic() + 4\nwhile time.monotonic() < e: pass\nprint(time.process_time())"
    result = run.alice(f"agentctl run --cpus 0.2 -- python3 -c '{spin}'")
    used = float(result.out.split()[-1])
    need(used < 2.0, f"cpus: {used} s of 4 s with --cpus 0.2")
    return f"cpu {used:.1f} s of 4 s"


# Whether a workspace there must be usable; elsewhere a refusal that names the rule is as good.
FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4 -q", True), "xfs": ("mkfs.xfs -q", True), "btrfs": ("mkfs.btrfs -q", True), "vfat": ("mkfs.vfat", False),
}


@check
def file_systems(run):
    """Workspaces on each: used as they should be, or refused with the reason; doctor says which, for a home there."""
    vm = run.vm
    results = []
    vm.sh("mkdir -p /mnt/ws")
    try:
        _each_file_system(run, results)
    finally:
        _home(run, "/home/alice")
    return "; ".join(results)


def _home(run, place):
    """Where alice's home is from now on."""
    run.vm.sh(f"sed -i 's|^\\(alice:.*:\\)/[^:]*\\(:[^:]*\\)$|\\1{place}\\2|' /etc/passwd; getent passwd alice | grep -q :{place}:")


def _each_file_system(run, results):
    vm = run.vm
    for name, (mkfs, usable) in FILE_SYSTEMS.items():
        if vm.run(f"modprobe {name}").code:
            results.append(f"{name}: no module")
            continue
        own = ",uid=1000,gid=1000" if name == "vfat" else ""
        vm.sh(f"rm -f /root/fs.img; truncate -s 400M /root/fs.img; {mkfs} /root/fs.img; mount -o loop{own} /root/fs.img /mnt/ws; mkdir -p /mnt/ws/w; "
              "chown alice:alice /mnt/ws/w 2>/dev/null || true", 120)
        said = _workspaces(run, "/mnt/ws/w", name)
        need("refused" not in said or not usable, f"{name}: {said}")
        results.append(f"{name}: {said}")
        vm.wait_until("umount /mnt/ws")
    vm.sh("mount -t tmpfs none /mnt/ws; install -d -o alice -g alice /mnt/ws/w")
    results.append("tmpfs: " + _workspaces(run, "/mnt/ws/w", "tmpfs"))
    vm.sh("install -d -o alice -g alice /root/low /mnt/ws/up /mnt/ws/wk /mnt/over; chmod 711 /root; "
          "mount -t overlay -o lowerdir=/root/low,upperdir=/mnt/ws/up,workdir=/mnt/ws/wk none /mnt/over")
    results.append("overlay: " + _workspaces(run, "/mnt/over", "overlay"))
    vm.wait_until("umount /mnt/over && umount /mnt/ws")
    vm.sh("chmod 700 /root")


def _workspaces(run, place, kind):
    said = []
    for mode in ("ro", "overlay", "direct"):
        result = run.vm.user("alice", f"cd / && agentctl run --workspace {place}:{mode} -- sh -c 'cd {place} && if [ {mode} = ro ]; then ls; else echo x > f && cat f; fi'")
        if result.code == 0:
            made = run.vm.run(f"test -e {place}/f").code == 0
            need(made == (mode == "direct"), f"{place} {mode}: the file is {'' if made else 'not '}there")
            said.append(mode)
            run.vm.sh(f"rm -f {place}/f")
        else:
            need("refused: " in result.out, f"{place} {mode}: {result!r}")
            rule = re.search(r"\((\w+\.\w+)\):", result.out)[1]
            need(rule in ("path.idmap", "path.overlay"), f"{place} {mode}: {result.out}")
            said.append(f"{mode} refused ({rule})")
    _home(run, place)
    row = rows(run)[f"idmap.{kind}"]
    # The next workspace at this place is no home.
    _home(run, "/home/alice")
    need(place in row["found"], row)
    need((row["status"] == "ok") == ("path.idmap" not in " ".join(said)), f"{place}: {said}, but doctor: {row}")
    return " ".join(said)


@check
def tmp_and_home_elsewhere(run):
    """/tmp on a tmpfs, and a home on another file system than the state."""
    vm = run.vm
    vm.sh("mount -t tmpfs -o mode=1777 none /tmp; truncate -s 300M /root/home.img; mkfs.xfs -q /root/home.img; mkdir -p /home2; "
          "mount -o loop /root/home.img /home2; useradd --create-home --home-dir /home2/carol --shell /bin/bash --groups agentd carol")
    for place in ("/home2/carol", "/tmp/carol"):
        result = vm.user("carol", f"mkdir -p {place}/w && cd {place}/w && agentctl run -- sh -c 'touch f && pwd && echo $HOME'")
        # A tmpfs can be id-mapped from Linux 6.3 on.
        refused = place.startswith("/tmp") and result.code == 125 and "(path.idmap)" in result.out
        need(refused or result.code == 0 and f"{place}/w" in result.out, repr(result))
    vm.sh("pkill -KILL -u carol || true")
    vm.wait_until("umount /home2 && umount /tmp")
    vm.sh("userdel carol")
    return "/tmp refused (path.idmap)" if refused else ""


@check
def unprivileged_user_namespaces_off(run):
    """`kernel.unprivileged_userns_clone = 0`, as some sites have it, is nothing to agentd, and doctor says so."""
    run.vm.sh("sysctl -qw kernel.unprivileged_userns_clone=0")
    result = run.alice("agentctl run -- true")
    row = rows(run, good=True)["namespaces.unprivileged"]
    need(row["status"] == "ok" and "unprivileged_userns_clone = 0; sessions do not depend" in row["found"], row)
    run.vm.sh("sysctl -qw kernel.unprivileged_userns_clone=1")
    need(result.code == 0, repr(result))


@check
def apparmor_has_nothing_to_say(run):
    """No denial about any of our processes so far."""
    said = run.vm.run("journalctl -k --no-pager -o cat | grep 'apparmor=\"DENIED\"'").out
    need(not said.strip(), said)


@check
def without_apparmor(run):
    """The same machine, booted without it."""
    run.vm.stop()
    run.vm.start("apparmor=0")
    run.vm.wait_until("systemctl is-active agentd agentd-launcher")
    need(run.vm.sh("cat /sys/module/apparmor/parameters/enabled").strip() == "N", "AppArmor is on")
    result = run.alice("agentctl run -- id -un")
    need(result.code == 0 and "alice" in result.out, repr(result))
    row = rows(run, good=True)["lsm"]
    need(not row["found"].startswith("AppArmor"), row)
    return row["found"]


@check
def without_nf_tables(run):
    """The modules cannot be loaded: a clear refusal and no session, and doctor says what to load."""
    vm = run.vm
    vm.sh("echo 'install nf_tables /bin/false' > /etc/modprobe.d/test.conf")
    vm.stop()
    vm.start()
    vm.wait_until("systemctl is-active agentd-launcher || systemctl is-failed agentd-launcher")
    result = run.alice("agentctl run -- true")
    row = rows(run, good=False)["nf_tables"]
    need(row["status"] == "missing" and "modprobe nf_tables" in row["fix"], row)
    vm.sh("rm /etc/modprobe.d/test.conf; systemctl reset-failed; systemctl restart agentd-launcher agentd")
    need(result.code == 125 and ("nf_tables" in result.out or "nftables" in result.out), repr(result))
    need(run.alice("agentctl run -- true").code == 0, "it does not work with the modules either")
    return f"{result.out.strip().splitlines()[-1]}; doctor: {row['found']}"
