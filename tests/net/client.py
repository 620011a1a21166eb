"""What no usual program does by itself: python3 client.py ACT HOST …"""
import base64, hashlib, os, socket, ssl, struct, sys, threading, time

act, host, *more = sys.argv[1:]


def exactly(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += part
    return data


def websocket(times, pause):
    plain = socket.create_connection((host, 443))
    stream = ssl.create_default_context(cafile="ca.pem").wrap_socket(plain, server_hostname=host)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(f"GET /app/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(stream, 1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    for number in range(times):
        text, mask = b"message %d" % number, os.urandom(4)
        stream.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
        first, size = exactly(stream, 2)
        assert exactly(stream, size) == text
        time.sleep(pause)
    print(f"{times} echoes")


def half(port, count):
    """Sends all, says that this was all, and only then takes what came back."""
    stream = socket.create_connection((host, port))
    assert exactly(stream, 6) == b"hello\n"
    sent = os.urandom(count)
    got = []

    def take():
        while part := stream.recv(65536):
            got.append(part)

    taker = threading.Thread(target=take)
    taker.start()
    stream.sendall(sent)
    stream.shutdown(socket.SHUT_WR)
    taker.join()
    assert b"".join(got) == sent
    print(f"{count} back after our end")


def lookup():
    """Over TCP, of a server that is none of the system's."""
    name = b"".join(bytes([len(l)]) + l.encode() for l in host.split(".")) + b"\0"
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
    stream = socket.create_connection(("192.0.2.53", 53))
    stream.sendall(struct.pack(">H", len(query)) + query)
    reply = exactly(stream, struct.unpack(">H", exactly(stream, 2))[0])
    assert reply[:2] == query[:2] and struct.unpack(">H", reply[6:8])[0] == 1, reply
    at = len(query)
    at += 2 if reply[at] >= 0xc0 else len(name)
    print(socket.inet_ntoa(reply[at + 10:at + 14]))


def ask(*kinds):
    """For each type, the reply's code and the data of its records, which no compression may be in."""
    name = b"".join(bytes([len(l)]) + l.encode() for l in host.split(".")) + b"\0"
    for kind in kinds:
        query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", kind, 1)
        stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Longer than any answer may take.
        stream.settimeout(6)
        stream.sendto(query, ("192.0.2.53", 53))
        reply = stream.recv(2000)
        assert reply[:2] == query[:2] and reply[12:len(query)] == query[12:], reply
        at, found = len(query), []
        for _ in range(struct.unpack(">H", reply[6:8])[0]):
            assert reply[at:at + 2] == b"\xc0\x0c" and reply[at + 2:at + 4] == query[-4:-2], reply
            size = struct.unpack(">H", reply[at + 10:at + 12])[0]
            found.append(reply[at + 12:at + 12 + size])
            at += 12 + size
        assert at == len(reply), reply
        print(kind, reply[3] & 15, *found)


def late(limit):
    """What a name comes to that no server answers for, within so many seconds."""
    name = b"".join(bytes([len(l)]) + l.encode() for l in host.split(".")) + b"\0"
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.settimeout(limit)
    stream.sendto(query, ("192.0.2.53", 53))
    print("code", stream.recv(2000)[3] & 15)


def why():
    """Whether a name that is refused is so with a reason (RFC 8914)."""
    name = b"".join(bytes([len(l)]) + l.encode() for l in host.split(".")) + b"\0"
    extension = b"\0" + struct.pack(">2HIH", 41, 1232, 0, 0)
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 1) + name + struct.pack(">2H", 1, 1) + extension
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.settimeout(20)
    stream.sendto(query, ("192.0.2.53", 53))
    reply = stream.recv(2000)
    at = reply.index(b"agentd: ")
    print("code", reply[3] & 15, "because", struct.unpack(">H", reply[at - 2:at])[0], reply[at:].decode())


def datagrams(port, times):
    stream = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    stream.settimeout(5)
    where = socket.getaddrinfo(host, port, stream.family, stream.type)[0][4]
    for number in range(times):
        stream.sendto(b"datagram %d" % number, where)
        data, sender = stream.recvfrom(2000)
        assert data == b"datagram %d" % number and sender[0] == where[0], (data, sender)
    print(f"{times} back")


def many(port, count):
    """So many at once: how many are served, each with what it sent; and one more when there is room again."""
    address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]

    def connected():
        try:
            return socket.create_connection(address, timeout=30)
        except OSError:
            return None

    def greeted(stream):
        try:
            return stream is not None and exactly(stream, 6) == b"hello\n"
        except (EOFError, OSError):
            return False

    held = [stream for stream in [connected() for _ in range(count)] if greeted(stream)]
    for number, stream in enumerate(held):
        stream.sendall(b"%06d" % number)
    for number, stream in enumerate(held):
        assert exactly(stream, 6) == b"%06d" % number
    had = len(held)
    for stream in held:
        stream.close()
    until = time.monotonic() + 10
    while not greeted(connected()):
        assert time.monotonic() < until, "no room again"
    print(f"{had} at a time, and one more later")


def through():
    """A download of which a part comes before a line does and the rest after it; and echoes all the while."""
    begun, stop, echoes = threading.Event(), threading.Event(), []

    def talk():
        with socket.create_connection(("echo.test", 7)) as stream:
            assert exactly(stream, 6) == b"hello\n"
            while not stop.is_set():
                sent = os.urandom(40000)
                stream.sendall(sent)
                assert exactly(stream, len(sent)) == sent
                echoes.append(len(sent))
                begun.set()

    talker = threading.Thread(target=talk, daemon=True)
    talker.start()
    stream = socket.create_connection((host, 80))
    stream.sendall(f"GET /bulk HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    while not (line := line_of(stream)) == b"\r\n":
        assert line
    digest = hashlib.sha256(exactly(stream, 4 << 20))
    assert begun.wait(30)
    print("ready", flush=True)
    sys.stdin.readline()
    before = len(echoes)
    while len(echoes) < before + 2:
        assert talker.is_alive()
        time.sleep(0.01)
    digest.update(exactly(stream, 12 << 20))
    assert stream.recv(1) == b""
    stop.set()
    talker.join()
    print(digest.hexdigest(), flush=True)


def line_of(stream):
    line = b""
    while not line.endswith(b"\n"):
        line += exactly(stream, 1)
    return line


if act == "websocket":
    websocket(int(more[0]), float(more[1]))
elif act == "first":
    print(exactly(socket.create_connection((host, int(more[0]))), 6).decode(), end="")
elif act == "first6":
    address = socket.getaddrinfo(host, int(more[0]), socket.AF_INET6, socket.SOCK_STREAM)[0][4]
    stream = socket.socket(socket.AF_INET6)
    stream.connect(address)
    print(exactly(stream, 6).decode(), end="")
elif act == "half":
    half(int(more[0]), int(more[1]))
elif act == "many":
    many(int(more[0]), int(more[1]))
elif act == "through":
    through()
elif act == "lookup":
    lookup()
elif act == "ask":
    ask(*map(int, more))
elif act == "late":
    late(float(more[0]))
elif act == "why":
    why()
elif act == "datagrams":
    datagrams(int(more[0]), int(more[1]))
