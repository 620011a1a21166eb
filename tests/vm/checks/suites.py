"""The suites, with the installed programs, each with private daemons of its own."""

import os
import re

from . import check, need

NAMES = ("compliance", "programs", "escape", "privilege", "recovery", "restart", "api", "terminal", "limits", "disk",
         "service-manager", "observability", "hosts", "net", "escape-net")
MINUTES = 30


def suite(run, name):
    vm = run.vm
    # The installed programs, side by side as the tests expect them.
    vm.sh("mkdir -p /root/bin && cp --remove-destination /usr/lib/agentd/agentd* /usr/bin/agentctl /root/in/probe /root/bin/")
    result = vm.run(f"cd /root/in && AGENTD_BIN_DIR=/root/bin AGENTD_TEST_SLOWNESS=10 timeout -k 10 {MINUTES}m ./{name} {os.environ.get('FILTER', '')} > /root/{name}.log 2>&1", MINUTES * 60 + 30)
    run.fetch(f"/root/{name}.log")
    text = vm.sh(f"grep -aE 'FAILED$|^test result|SKIPPED' /root/{name}.log || tail -n 20 /root/{name}.log")
    failed = re.findall(r"^test (\S+)\s.*FAILED$", text, re.M)
    counts = re.search(r"(\d+) passed; (\d+) failed; (\d+) ignored", text)
    need(result.code == 0 and counts and not failed, f"exit {result.code}; {' '.join(failed) or text}")
    need("SKIPPED" not in text, text)
    return f"{counts[1]} passed, {counts[3]} not tried"


def check_of(name):
    def suite_of_that_name(run):
        return suite(run, name)
    suite_of_that_name.__name__ = name.replace("-", "_")
    return check(suite_of_that_name)


SUITES = [check_of(name) for name in NAMES]
