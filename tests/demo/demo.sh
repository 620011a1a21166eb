#!/bin/bash
# What agentd is for, in half a minute. Run it through private-daemon: `make demo`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${AGENTD_SOCKET:?run this through private-daemon}" "${DEMO_USER:?}" "${DEMO_DIR:?}" "${BIN:?}"
home=$(getent passwd "$DEMO_USER" | cut -d : -f 6)
work=$home/calculator
bold=''; dim=''; plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m'; dim=$'\e[2m'; plain=$'\e[0m'; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# As the demo's user, with nothing of root's: no groups, no environment, no terminal to steer.
as_user=(setpriv --reuid "$DEMO_USER" --regid "$DEMO_USER" --init-groups --inh-caps=-all --reset-env
    env --chdir="$work" AGENTD_SOCKET="$AGENTD_SOCKET" PATH="$BIN:$PATH")
follower=
# shellcheck disable=SC2317 # a trap calls it
finish() { [ -z "$follower" ] || kill "$follower" 2>/dev/null || true; }
trap finish EXIT

# The user's home: a key that nobody else should see, and a small repository.
install -d -o "$DEMO_USER" -g "$DEMO_USER" -m 700 "$home/.ssh"
install -d -o "$DEMO_USER" -g "$DEMO_USER" -m 755 "$work"
echo "-----BEGIN OPENSSH PRIVATE KEY----- (of the demo)" > "$home/.ssh/id_ed25519"
cat > "$work/sum.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
static int sum(int a, int b) { return a - b; }
int main(int argc, char **argv) { return argc == 3 ? printf("%d\n", sum(atoi(argv[1]), atoi(argv[2]))) < 0 : 2; }
C
install -m 755 "$here/agent.sh" "$work/agent.sh"
chown -R "$DEMO_USER:$DEMO_USER" "$home/.ssh" "$work"
"${as_user[@]}" git init -q -b main
"${as_user[@]}" git add .
"${as_user[@]}" git -c user.name=demo -c user.email=demo@example.org commit -q -m "a calculator that does not add"

marker=left-behind-$$
command=(agentctl run --name demo --workspace .:direct --memory 256M --timings -- ./agent.sh "$home/.ssh/id_ed25519" "$marker")
title "$DEMO_USER runs an agent"
printf '%s  $ %s%s\n\n' "$dim" "${command[*]}" "$plain"
: > "$DEMO_DIR/events"
"${as_user[@]}" agentctl events --follow --json > "$DEMO_DIR/events" 2>/dev/null </dev/null &
follower=$!
status=0
"${as_user[@]}" "${command[@]}" 2> "$DEMO_DIR/timings" </dev/null | /usr/bin/python3 "$here/narrate.py" "$DEMO_DIR/events" || status=1

title "What is left"
# [l]: the pattern must not find itself.
alive() { grep -sqa "[l]${marker#l}" /proc/[0-9]*/cmdline; }
for _ in $(seq 20); do alive || break; sleep 0.1; done
if alive; then
    echo "  the agent's background process LIVES"; status=1
else
    echo "  the agent's background process is gone with the session"
fi
echo "  the commit is in the real repository (workspace mode direct):"
"${as_user[@]}" git log --stat --format='%h %an: %s' -1 | grep . | sed 's/^/    /'
if [ -z "$(find "$work/.git/hooks" -mindepth 1 ! -name '*.sample')" ]; then
    echo "  the agent's git hook was in its session's own copy, and is gone with it"
else
    echo "  the agent's git hook IS in the repository"; status=1
fi

title "The same user, the default mode: a copy-on-write workspace"
printf '%s  $ %s%s\n' "$dim" "agentctl run -- sh -c 'rm -rf sum.c .git/objects; ls'" "$plain"
"${as_user[@]}" agentctl run -- sh -c 'rm -rf sum.c .git/objects; ls' </dev/null | sed 's/^/    in the session: /'
"${as_user[@]}" sh -c 'git status --porcelain --untracked-files=no | grep . || echo "    outside: git status is clean, nothing is missing"'
"${as_user[@]}" test -e sum.c || status=1

title "How long the start took (microseconds: from, to, length, step)"
sed 's/^/  /' "$DEMO_DIR/timings"
exit "$status"
