// Node's servers: one of HTTP/1, and one of HTTP/2 without TLS, which speaks first.
const host = (request, answer) => answer.end(`this is ${request.headers[":authority"] ?? request.headers.host}\n`);
require("http").createServer(host).listen(3000);
require("http2").createServer(host).listen(8050);
