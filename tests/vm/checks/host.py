"""What differs between hosts: kernel, cgroups, file systems, modules."""

import json

from . import Skip, check, need


@check
def what_it_is(run):
    """The point of this machine: systemd, pure cgroup v2, AppArmor, an older Landlock."""
    vm = run.vm
    need(vm.sh("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs", "not pure cgroup v2")
    need("apparmor" in vm.sh("cat /sys/kernel/security/lsm"), "no AppArmor")
    need(vm.sh("cat /sys/module/apparmor/parameters/enabled").strip() == "Y", "AppArmor is off")
    return vm.sh("uname -r").strip()


@check
def doctor(run):
    """Nothing is wrong with this host in the daemon's eyes."""
    if "doctor" not in run.vm.sh("agentctl --help"):
        raise Skip("this version has no doctor")
    result = run.alice("agentctl doctor --json")
    rows = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
    need(rows, repr(result))
    need(result.code == 0, f"{result!r}")
    return f"{len(rows)} rows"


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
    """Workspaces on each: used as they should be, or refused with the reason."""
    vm = run.vm
    told = []
    vm.sh("mkdir -p /mnt/ws")
    for name, (mkfs, usable) in FILE_SYSTEMS.items():
        if vm.run(f"modprobe {name}").code:
            told.append(f"{name}: no module")
            continue
        own = ",uid=1000,gid=1000" if name == "vfat" else ""
        vm.sh(f"rm -f /root/fs.img; truncate -s 400M /root/fs.img; {mkfs} /root/fs.img; mount -o loop{own} /root/fs.img /mnt/ws; mkdir -p /mnt/ws/w; "
              "chown alice:alice /mnt/ws/w 2>/dev/null || true", 120)
        said = _workspaces(run, "/mnt/ws/w")
        need("refused" not in said or not usable, f"{name}: {said}")
        told.append(f"{name}: {said}")
        vm.wait_until("umount /mnt/ws")
    vm.sh("mount -t tmpfs none /mnt/ws; install -d -o alice -g alice /mnt/ws/w")
    told.append("tmpfs: " + _workspaces(run, "/mnt/ws/w"))
    vm.sh("install -d -o alice -g alice /root/low /mnt/ws/up /mnt/ws/wk /mnt/over; chmod 711 /root; "
          "mount -t overlay -o lowerdir=/root/low,upperdir=/mnt/ws/up,workdir=/mnt/ws/wk none /mnt/over")
    told.append("overlay: " + _workspaces(run, "/mnt/over"))
    vm.wait_until("umount /mnt/over && umount /mnt/ws")
    vm.sh("chmod 700 /root")
    return "; ".join(told)


def _workspaces(run, place):
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
            rule = result.out.split("(")[-1].split(")")[0] if "(" in result.out else "?"
            said.append(f"{mode} refused ({rule})")
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
    """`kernel.unprivileged_userns_clone = 0`, as some sites have it, is nothing to agentd."""
    run.vm.sh("sysctl -qw kernel.unprivileged_userns_clone=0")
    result = run.alice("agentctl run -- true")
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


@check
def without_nf_tables(run):
    """The modules cannot be loaded: a clear refusal, and no session."""
    vm = run.vm
    vm.sh("echo 'install nf_tables /bin/false' > /etc/modprobe.d/test.conf")
    vm.stop()
    vm.start()
    vm.wait_until("systemctl is-active agentd-launcher || systemctl is-failed agentd-launcher")
    vm.run("lsmod | grep nf_tables")
    result = run.alice("agentctl run -- true")
    vm.sh("rm /etc/modprobe.d/test.conf; systemctl reset-failed; systemctl restart agentd-launcher agentd")
    need(result.code == 125 and ("nf_tables" in result.out or "nftables" in result.out), repr(result))
    need(run.alice("agentctl run -- true").code == 0, "it does not work with the modules either")
    return result.out.strip().splitlines()[-1]
