#!/bin/bash
# The agent of the demo: honest work first, then what a hostile one would try. It runs inside the session
# and knows nothing of its limits but what its own system calls return.
# Lines that begin with a tab are for narrate.py: what was tried, how it went, the event to look for.
real_key=$1
marker=$2

say() { printf '%s\n' "$*"; }

# attempt WHAT EVENT COMMAND…: a COMMAND that succeeds has broken out. EVENT is the kind of event that must record
# of it, and words that it must hold.
attempt() {
    local what=$1 event=$2 output status
    shift 2
    output=$("$@" 2>&1)
    status=$?
    output=$(sed '/^ /d' <<<"$output" | tail -n 1)
    if [ "$status" = 0 ]; then output="REACHED: $output"; fi
    printf '\t%s\t%s\t%s\t%s\n' "$what" "$status" "${output//$'\t'/ }" "$event"
}

say "I am $(id -un) ($(id -u)) in $PWD, pid $$"
sed -i 's/a - b/a + b/' sum.c
gcc -O2 -Wall -o sum sum.c && say "sum 40 2 = $(./sum 40 2)"
/usr/bin/python3 -c 'import pathlib; pathlib.Path("NOTES.md").write_text("sum() adds now\n")'
git add sum.c NOTES.md
git -c user.name=agent -c user.email=agent@example.org commit -q -m "sum: add instead of subtract"
say "committed $(git log --oneline | head -n 1)"

printf '\t\n'
py() { /usr/bin/python3 -c "$@"; }
# shellcheck disable=SC2016 # the inner shell expands them
tcp() { timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2"; }

attempt "read your ssh key" "process.exec /usr/bin/cat" cat "$real_key"
attempt "read the host's passwords" "process.exec /usr/bin/base64" base64 /etc/shadow
attempt "connect to 192.0.2.1:443" "net.denied tcp 192.0.2.1 443" tcp 192.0.2.1 443
attempt "IPv6 to 2001:db8::1" "net.denied tcp 2001:db8::1 443" tcp 2001:db8::1 443
attempt "resolve example.org" "dns.query example.org" \
    py 'import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1", ("192.0.2.53", 53))
code = s.recv(512)[3] & 15; assert code == 0, "NXDOMAIN" if code == 3 else code'
attempt "ask for cloud credentials" "net.denied tcp 169.254.169.254 80" tcp 169.254.169.254 80
attempt "steer docker" "process.exec docker.sock" \
    py 'import socket; socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")'
attempt "swap .git for its own" "process.exec /usr/bin/mv" mv .git .git-old
attempt "become root" "process.exec setuid" py 'import os; os.setuid(0)'
attempt "leave a setuid shell" "confine.denied mode 4755 /usr/bin/chmod" sh -c 'cp /bin/sh ./sh; chmod u+s ./sh || { rm ./sh; false; }'
attempt "mount over /etc" "confine.denied /usr/bin/mount" mount -t tmpfs none /etc
attempt "a user namespace" "confine.denied CLONE_NEWUSER /usr/bin/unshare" unshare --user --map-root-user true
attempt "read pid 1's memory" "process.exec /usr/bin/head" head -c 1 /proc/1/mem
attempt "find the daemon in /proc" "process.exec /usr/bin/grep" grep -ls agentd-launcher /proc/[1-9]*/comm
attempt "fill the memory" "limit.hit memory" py 'x = [bytearray(b"x" * 1048576) for _ in range(1024)]'

# What would stay when the agent goes: a hook that runs as the user at the next commit, and a process.
printf '#!/bin/sh\n' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit && say "left a git hook behind"
setsid bash -c "exec -a $marker sleep 600" </dev/null >/dev/null 2>&1 &
say "left a background process behind ($marker)"
