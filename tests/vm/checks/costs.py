"""What agentd costs on this kernel: run only if they are named (CHECKS=costs), because figures take long under TCG."""

from . import check, need

MINUTES = 40


@check
def disk_image(run):
    """Work in an overlay on the quota image beside the same work on the host's file system, two rounds."""
    vm = run.vm
    vm.sh("mkdir -p /root/bin && cp --remove-destination /usr/lib/agentd/agentd* /usr/bin/agentctl /root/bin/ && systemctl stop agentd-launcher agentd")
    result = vm.run(
        "cd /root/in && BIN=/root/bin DEMO_KEYS='disk_limits = \"image\"' timeout -k 10 "
        f"{MINUTES}m bash ./private-daemon ./disk.py 2 2>&1", MINUTES * 60 + 30)
    vm.sh("systemctl start agentd")
    need(result.code == 0, repr(result))
    return result.out
