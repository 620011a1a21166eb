"""The network of sessions, by the daemon that is installed, in the confinement of its own units."""

from . import check, need
from .units import CONFIG, configured

LISTS = "/etc/agentd/blocklists.d"
# Every name is at 203.0.113.7, which is in a namespace of the check's.
DNS = """
import socket
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.bind(("203.0.113.7", 53))
while True:
    query, who = asked.recvfrom(2048)
    end = query.index(0, 12) + 5
    kind = query[end - 3]
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xcb\\0\\x71\\7" if kind == 1 else b""
    asked.sendto(query[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([len(answer) > 0]) + b"\\0\\0\\0\\0" + query[12:end] + answer, who)
"""
FAR = """
ip netns add far
ip link add near type veth peer name far netns far
ip addr add 203.0.113.1/24 dev near
ip link set near up
ip -n far addr add 203.0.113.7/24 dev far
ip -n far link set far up
mkdir -p /srv/far
echo 'hello from far' > /srv/far/hello
for what in '/root/far-dns.py' '-m http.server 80 --directory /srv/far'; do
    systemd-run --quiet --slice far.slice -p NetworkNamespacePath=/run/netns/far python3 $what
done
systemd-run --quiet --slice far.slice python3 -m http.server 8123 --bind 127.0.0.1 --directory /srv/far
"""
SCRIPT = """
curl -sS http://good.example/hello
echo "address $(curl -s -o /dev/null -w '%{http_code}' http://203.0.113.7/hello)"
echo "host $(curl -s -o /dev/null -w '%{http_code}' -H 'Host: other.example' http://good.example/hello)"
curl -s http://ads.example/hello || echo "listed $?"
curl -s http://unnamed.example/hello || echo "unnamed $?"
curl -s http://127.0.0.1:8123/hello || echo "loopback $?"
"""


@check
def by_name(run):
    """Names that are allowed, others, blocklists, another Host; a port of the host's loopback, and the record of it."""
    vm = run.vm
    vm.sh(f"cat > /root/far-dns.py <<'EOF'{DNS}EOF\n{FAR}")
    vm.wait_until("ip netns exec far ss -Hlnu 'sport = 53' | grep -q . && curl -s http://203.0.113.7/hello && curl -s http://127.0.0.1:8123/hello")
    vm.sh(f"mkdir -p {LISTS} && echo '0.0.0.0 ads.example' > {LISTS}/ads.hosts && cp {CONFIG} /root/before-network.toml")
    for key, value in {"resolvers": '["203.0.113.7"]', "allow_private_ranges": '["203.0.113.0/24"]', "blocklists": f'["{LISTS}/ads.hosts"]'}.items():
        configured(vm, key, value)
    vm.sh("systemctl reload agentd")
    result = run.alice(f"cat > far.sh <<'EOF'{SCRIPT}EOF\nagentctl run --name far --allow good.example --allow ads.example -- sh far.sh")
    for wanted in ("hello from far\n", "address 403", "host 403", "listed 6", "unnamed 6", "loopback 7"):
        need(wanted in result.out, f"no {wanted!r}: {result!r}")
    need(result.out.count("hello from far") == 1, repr(result))
    said = run.alice("agentctl events far --json").out
    for wanted in ('"rule":"allow good.example"', '"rule":"blocklist ads"', '"net.connect"', '"net.closed"', '"http.request"'):
        need(wanted in said, f"no {wanted}: {said}")
    result = run.alice("agentctl run --allow local:8123 -- curl -sS http://127.0.0.1:8123/hello")
    need(result.out == "hello from far\n", repr(result))
    need("active (running)" in vm.sh("systemctl status agentd agentd-launcher"), "a unit is not well")


@check
def a_published_port(run):
    """It is there for the host, also after both services were started anew, and gone with its session."""
    vm = run.vm
    fetch = "curl -sS http://127.0.0.1:3000/far.sh"
    start = "agentctl run --detach --name shown --publish 3000 -- python3 -m http.server 3000 --bind 127.0.0.1"
    need(run.alice(start).code == 0, "it does not start")
    first = vm.wait_until(fetch)
    need("good.example" in first, first)
    vm.sh("systemctl restart agentd agentd-launcher", 120)
    vm.wait_until("systemctl is-active agentd agentd-launcher && agentctl version", 60)
    need(vm.sh(fetch) == first, "another answer after the restart")
    need(run.alice("agentctl stop shown").code == 0, "it does not stop")
    vm.wait_until("! ss -Hltn 'sport = 3000' | grep -q .")
    vm.sh(f"systemctl stop far.slice; ip netns del far; cp /root/before-network.toml {CONFIG}; chmod 644 {CONFIG}; rm -r {LISTS}; systemctl reload agentd")
