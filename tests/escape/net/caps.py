"""Ways to send more than a cap: python3 caps.py ACT. Says how many bytes of 20000 arrived."""
import socket, sys, threading

BODY = b"x" * 1000


def exchange(_):
    """A thousand bytes to an echo; those that came back."""
    try:
        stream = socket.create_connection(("echo.test", 7))
        assert stream.recv(6, socket.MSG_WAITALL) == b"hello\n"
        stream.sendall(BODY)
        return len(stream.recv(1000, socket.MSG_WAITALL))
    except (OSError, AssertionError):
        return 0


def again():
    return sum(exchange(number) for number in range(20))


def parallel():
    got = [0] * 20

    def one(number):
        got[number] = exchange(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(got)


def request(host):
    return b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n" % host.encode() + BODY


def answers(stream, count):
    """How many responses of 200 come, each of which says that its request was taken whole."""
    data, lines = b"", 0
    try:
        while lines < count:
            part = stream.recv(65536)
            if not part:
                break
            data += part
            lines = data.count(b"HTTP/1.1 200 ")
    except OSError:
        pass
    return data.count(b"HTTP/1.1 200 ")


def names():
    got = 0
    for number in range(20):
        host = f"n{number}.wild.test"
        try:
            stream = socket.create_connection((host, 80))
            stream.sendall(request(host))
            got += 1000 * answers(stream, 1)
        except OSError:
            pass
    return got


def pipeline():
    """All on a connection that began by a rule without a cap, and one more of that in between."""
    socket.gethostbyname("n.wild.test")
    stream = socket.create_connection(("free.wild.test", 80))
    got = 0
    try:
        for _ in range(20):
            stream.sendall(request("free.wild.test") + request("n.wild.test"))
            count = answers(stream, 2)
            if count < 2:
                break
            got += 1000
    except OSError:
        pass
    return got


def datagrams():
    """Each from a port of its own."""
    address, got, patience = socket.gethostbyname("echo.test"), 0, 10
    for _ in range(20):
        stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stream.settimeout(patience)
        try:
            stream.sendto(BODY, (address, 7))
            got += len(stream.recv(2000))
        except OSError:
            # Once one is lost the others are as well.
            patience = 0.2
    return got


print(globals()[sys.argv[1]]())
