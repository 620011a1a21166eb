"""Against caps: python3 caps.py ACT …"""
import socket, sys

act, *more = sys.argv[1:]


def echo(count):
    """Sends so much to an echo, and says how much of it came back."""
    stream = socket.create_connection(("echo.test", 7))
    assert stream.recv(6, socket.MSG_WAITALL) == b"hello\n"
    back = 0
    try:
        for _ in range(count // 1000):
            stream.sendall(b"x" * 999 + b"\n")
            while part := stream.recv(1000):
                back += len(part)
                if back % 1000 == 0:
                    break
            else:
                break
    except OSError:
        pass
    return back


def held(most):
    """So many at once are greeted, and one more when one of them has ended on both sides."""
    def greeted():
        stream = socket.create_connection(("echo.test", 7))
        try:
            return stream if stream.recv(6, socket.MSG_WAITALL) == b"hello\n" else None
        except OSError:
            return None

    open = [stream for stream in [greeted() for _ in range(most)] if stream]
    first = open[0]
    first.shutdown(socket.SHUT_WR)
    assert first.recv(1) == b""
    print(len(open), "at a time,", "one more later" if greeted() else "none later")


def datagrams(count, size):
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.connect((socket.gethostbyname("echo.test"), 7))
    back = 0
    for _ in range(count):
        stream.send(b"x" * size)
        # One that was not let through is not answered.
        stream.settimeout(10 if back < int(more[2]) else 1)
        try:
            back += len(stream.recv(2000))
        except OSError:
            break
    print(back, "back")


if act == "echo":
    print(echo(int(more[0])), "back")
elif act == "held":
    held(int(more[0]))
elif act == "datagrams":
    datagrams(int(more[0]), int(more[1]))
