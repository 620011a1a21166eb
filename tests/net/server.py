"""A server in a session: python3 server.py ACT ADDRESS PORT"""
import hashlib, http.server, socket, socketserver, struct, sys, threading, time

act, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/lines":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            for number in range(1_000_000):
                self.wfile.write(b"line %d\n" % number)
                time.sleep(0.005)
        body = open("bulk", "rb").read() if self.path == "/bulk" else b"inside\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left > 0:
            part = self.rfile.read(min(left, 65536))
            digest.update(part)
            left -= len(part)
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 512


class Bytes(socketserver.BaseRequestHandler):
    def handle(self):
        stream = self.request
        if act == "echo":
            stream.sendall(b"hello\n")
            while part := stream.recv(65536):
                stream.sendall(part)
        elif act == "half":
            digest, count = hashlib.sha256(), 0
            while part := stream.recv(65536):
                digest.update(part)
                count += len(part)
            stream.sendall(b"%d %s" % (count, digest.hexdigest().encode()))
        elif act == "reset":
            stream.recv(1)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        elif act == "last":
            try:
                stream.sendall(b"x")
                while stream.recv(65536):
                    pass
                print("end", flush=True)
            except ConnectionResetError:
                print("reset", flush=True)
            threading.Thread(target=server.shutdown).start()

    def finish(self):
        self.request.close()


server = Server((address, port), Web if act == "web" else Bytes)
print("ready", flush=True)
server.serve_forever()
