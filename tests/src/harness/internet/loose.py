"""A server as many are: any method, a body that nobody reads is the next request, and the status is the client's choice."""
import http.server, socket


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        text = f"this is {self.headers['Host']}\n".encode()
        status = int(self.path[8:]) if self.path.startswith("/status/") else 200
        self.send_response(status)
        if status != 101:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 101:
            self.wfile.write(text)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


Server(("::", 8000), Handler).serve_forever()
