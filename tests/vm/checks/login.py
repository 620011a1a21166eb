"""What a person does who has just logged in."""

from . import check, need


@check
def a_plain_user(run):
    """In group agentd, with nothing of root's: the very command of the README."""
    vm = run.vm
    vm.sh("useradd --create-home --shell /bin/bash --groups agentd alice; su -l alice -c 'mkdir p'")
    result = vm.user("alice", "cd p && agentctl run -- sh -c 'id; cat /etc/shadow; touch here && echo touched; pwd'")
    for wanted in ("uid=1000(alice) gid=1000(alice) groups=1000(alice)", "cat: /etc/shadow: No such file", "touched", "/home/alice/p"):
        need(wanted in result.out, f"no {wanted!r}: {result!r}")
    need(result.code == 0 and vm.sh("ls /home/alice/p") == "", f"{result!r}")


@check
def commands_own_exit_code(run):
    for command, code in {"exit 3": 3, "kill -TERM $$": 143, "exec /nowhere": 127, "exec /etc/passwd": 126}.items():
        result = run.alice(f"agentctl run -- sh -c '{command}'")
        need(result.code == code, f"{command}: {result!r}")


@check
def a_terminal(run):
    """`run` on a terminal gives the command one, of its own and of the same size."""
    result = run.alice("script -qec 'stty rows 33 cols 99; agentctl run -- sh -c \"tty; stty size\"' /dev/null </dev/null")
    need("/dev/pts/" in result.out and "33 99" in result.out, repr(result))


@check
def who_may_not(run):
    """Somebody outside the group, and root."""
    run.vm.sh("useradd --create-home --shell /bin/bash bob")
    result = run.vm.user("bob", "agentctl run -- true")
    need(result.code == 125 and "agentd" in result.out and "refused" in result.out, repr(result))
    result = run.vm.run("agentctl run -- true")
    need(result.code == 125 and "caller.root" in result.out, repr(result))


@check
def events_of_a_session(run):
    """What it started and what it was refused is on record, for its user."""
    vm = run.vm
    need(run.alice("agentctl run --name denied -- bash -c 'echo > /dev/tcp/192.0.2.1/443; /bin/true'").code == 0, "run")
    said = run.alice("agentctl events denied --json").out
    for kind in ("session.created", "process.exec", "net.denied", "session.ended"):
        need(f'"{kind}"' in said, f"no {kind}: {said}")
    need(vm.user("alice", "cat /var/lib/agentd/audit/* 2>&1").code != 0, "the user reads the store itself")
