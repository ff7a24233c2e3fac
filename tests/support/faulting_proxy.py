"""A proxy before an S3 server that injects faults, at random with a seed.

Requests are forwarded byte for byte, the ``Host`` header too, so that signatures stay valid. Faults
are those of real servers and networks: 503 SlowDown; 500 InternalError; a connection that is
reset before the request is served, or after it was served and before the answer arrives; a body
that ends too early in spite
of its Content-Length, in either direction; and delays. Requests are counted by what they cost.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

SLOW_DOWN, INTERNAL, RESET, LOST = "slow_down", "internal_error", "reset", "lost_answer"
SHORT_ANSWER, SHORT_UPLOAD, DELAY = "short_answer", "short_upload", "delay"
KINDS = (SLOW_DOWN, INTERNAL, RESET, LOST, SHORT_ANSWER, SHORT_UPLOAD, DELAY)
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
PUTS, GETS, LISTS, DELETES = "puts", "gets", "lists", "deletes"
_NO_LIMIT = 10**9
_DELAY_SECONDS = 2.0
_ABORT_ON_CLOSE = struct.pack("ii", 1, 0)
_BODY = b"<?xml version='1.0'?><Error><Code>%b</Code><Message>Sorry</Message></Error>"
_HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nConnection: close\r\n"
_FAILURES = {
    SLOW_DOWN: (b"503 Slow Down", b"SlowDown"),
    INTERNAL: (b"500 Internal Server Error", b"InternalError"),
}
_GONE = (ConnectionError, asyncio.IncompleteReadError, OSError)


@dataclass(frozen=True)
class Message:
    """A request or an answer, as its bytes."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")

    @property
    def price(self) -> str:
        """As what a request is charged: uploads in parts are puts, heads are gets."""
        method, target = self.first_line[:2]
        asked = parse_qs(urlsplit(target).query, keep_blank_values=True)
        if method == "DELETE" or "delete" in asked:
            return DELETES
        if method == "GET" and ("list-type" in asked or "prefix" in asked):
            return LISTS
        return GETS if method in ("GET", "HEAD") else PUTS


class FaultingProxy:
    """Listens on a free port of the loopback interface for the time of the block.

    ``rate`` is the share of requests that meet a fault, ``latency`` the most seconds that any
    request waits, ``most`` how many faults there are in all; ``found`` counts them by kind, and
    ``kinds`` and ``methods`` limit them. ``served`` counts requests since the last ``disturb``.
    """

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = (parts.hostname, parts.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="faulting-proxy", daemon=True)
        self._ready = threading.Event()
        self.kinds: tuple[str, ...] = KINDS
        self.methods: tuple[str, ...] = METHODS
        self.quiet()

    def quiet(self) -> None:
        """No faults from now on."""
        self.disturb(seed=0, rate=0.0)

    def disturb(
        self, *, seed: int, rate: float, latency: float = 0.0, most: int = _NO_LIMIT
    ) -> None:
        """Begins anew: so many of the requests meet a fault, and all are late."""
        self._random, self.found = random.Random(seed), Counter[str]()
        self.served = Counter[str]()
        self.rate, self.latency, self.most = rate, latency, most

    def __enter__(self) -> "FaultingProxy":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        open_ones = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        try:
            upstream = await asyncio.open_connection(*self._server)
            while request := await _read_request(reader, writer):
                if not await self._exchange(request, writer, *upstream):
                    break
        except (*_GONE, asyncio.CancelledError):
            pass  # a client or server that went away, or the proxy's own end
        finally:
            for stream in (writer, upstream[1] if upstream else None):
                if stream is not None:
                    stream.close()

    async def _exchange(
        self,
        request: Message,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """Serves one request; False when the connection is over."""
        self.served[request.price] += 1
        fault = self._fault(request)
        await asyncio.sleep(self._random.uniform(0, self.latency))
        if fault == DELAY:
            await asyncio.sleep(self._random.uniform(0, _DELAY_SECONDS))
        elif fault in _FAILURES:
            status, code = _FAILURES[fault]
            body = _BODY % code
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            body = b"" if request.first_line[0] == "HEAD" else body
            return await _sent(writer, _HEAD % status + length + body, more=False)
        elif fault == RESET:
            return _reset(writer)
        elif fault == SHORT_UPLOAD:
            to_server.write(request.head + request.body[: len(request.body) // 2])
            await to_server.drain()
            return _reset(writer)
        to_server.write(request.head + request.body)
        await to_server.drain()
        answer = await _read_answer(from_server, request.first_line[0])
        if fault == LOST:
            return _reset(writer)
        if fault == SHORT_ANSWER:
            return await _sent(
                writer, answer.head + answer.body[: len(answer.body) // 2], more=False
            )
        return await _sent(writer, answer.head + answer.body)

    def _fault(self, request: Message) -> str | None:
        method = request.first_line[0]
        if self._random.random() >= self.rate or method not in self.methods:
            return None
        if self.found.total() >= self.most:
            return None
        kind = self._random.choice(self.kinds)
        if kind == SHORT_UPLOAD and not request.body:
            return None
        if kind == SHORT_ANSWER and method != "GET":
            return None
        self.found[kind] += 1
        return kind


async def _sent(writer: asyncio.StreamWriter, data: bytes, *, more: bool = True) -> bool:
    writer.write(data)
    await writer.drain()
    return more


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Closes with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT_ON_CLOSE)
    writer.transport.abort()
    return False


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Message | None:
    head = b""
    with suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
    if not head:
        return None
    if "100-continue" in _headers(head).get("expect", ""):
        await _sent(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
    return Message(head, await _read_body(reader, head))


async def _read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    head = await reader.readuntil(b"\r\n\r\n")
    while head.split(b" ", 2)[1] == b"100":  # we have given it already
        head = await reader.readuntil(b"\r\n\r\n")
    empty = method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304")
    return Message(head, b"" if empty else await _read_body(reader, head))


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The bytes of a body as they are on the wire."""
    headers = _headers(head)
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
