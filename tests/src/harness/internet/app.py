"""What a file server cannot do: a WebSocket that echoes, server-sent events, a digest of what is sent."""
import asyncio, base64, hashlib

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def websocket(headers, reader, writer):
    key = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + key + b"\r\n\r\n")
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7f
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
        head = bytes([first, size]) if size < 126 else bytes([first, 126]) + size.to_bytes(2, "big")
        writer.write(head + data)
        await writer.drain()
        if first & 0xf == 8:
            return


async def events(path, writer):
    """As many as asked for, so many milliseconds apart."""
    count, pause = (int(word) for word in path.split(b"/")[-2:])
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    for number in range(count):
        writer.write(b"data: %d\n\n" % number)
        await writer.drain()
        await asyncio.sleep(pause / 1000)


async def upload(headers, reader, writer):
    left, digest = int(headers[b"content-length"]), hashlib.sha256()
    while left:
        data = await reader.read(min(left, 65536))
        if not data:
            return
        digest.update(data)
        left -= len(data)
    text = digest.hexdigest().encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))


async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        path = head[0].split()[1]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in head[1:])}
        if path.startswith(b"/app/ws"):
            await websocket(headers, reader, writer)
        elif path.startswith(b"/app/events/"):
            await events(path, writer)
        elif path.startswith(b"/app/upload"):
            await upload(headers, reader, writer)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 8081)
    await server.serve_forever()


asyncio.run(main())
