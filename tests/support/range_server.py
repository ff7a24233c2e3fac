"""A web server on the loopback interface for slides: ranges, listings, and a log of requests.

It serves a folder as Apache would: files with ``Range`` (206), folders as pages with links. Every
request is logged with the bytes of its answer. Faults can be switched on: connections that break in
the middle of an answer, a server that is overloaded, or that does not know ``Range``.
"""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote, unquote, urlsplit

Fault = Literal["none", "breaks", "busy", "whole"]


@dataclass(frozen=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    start: int | None
    """First byte of the range, None without one."""
    num_bytes: int
    """Bytes of the body."""


@dataclass
class RangeServer:
    """A running server."""

    url: str
    requests: list[Request] = field(default_factory=list)
    fault: Fault = "none"
    faults_left: int = 0
    """Answers that the fault still falls on; it ends then."""
    gone: bool = False
    """Whether connections that are still open are closed instead of answered."""

    def fail(self, fault: Fault, *, times: int) -> None:
        """Lets the next answers with content fail."""
        self.fault, self.faults_left = fault, times

    def taken(self, path: str = "") -> list[Request]:
        """Requests with a body, of files whose path ends so, since the last ``forget``."""
        found = [each for each in self.requests if each.method == "GET"]
        return [each for each in found if each.path.endswith(path)]

    def forget(self) -> None:
        """Empties the log."""
        self.requests.clear()

    def next_fault(self) -> Fault:
        """The fault of this answer."""
        if self.fault == "none" or not self.faults_left:
            return "none"
        self.faults_left -= 1
        return self.fault


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    """A server of ``folder`` on a free port."""
    served = RangeServer("")
    handler = type("Handler", (_Handler,), {"folder": folder, "served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            served.gone = True
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    served: RangeServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Nothing: requests are logged as data."""

    def _answer(self, *, body: bool) -> None:
        if self.served.gone:
            self.close_connection = True
            return
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if path.is_dir():
            page = _page(path)
            self._send(io.BytesIO(page), len(page), "text/html; charset=utf-8", body=body)
        elif path.is_file():
            with path.open("rb") as stream:
                self._send(stream, path.stat().st_size, "application/octet-stream", body=body)
        else:
            self._log(0, None)
            self.send_error(404)

    def _send(self, stream: BinaryIO, size: int, kind: str, *, body: bool) -> None:
        fault = self.served.next_fault() if body and "text" not in kind else "none"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if fault == "whole":
            wanted = None
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        if fault == "busy" or (wanted and start >= size):
            self._log(0, start)
            self.send_error(503 if fault == "busy" else 416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        self._log(end - start if body else 0, start if wanted else None)
        if fault == "breaks":
            end = start + (end - start) // 2
            self.close_connection = True
        stream.seek(start)
        if body:
            self.wfile.write(stream.read(end - start))

    def _log(self, num_bytes: int, start: int | None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(Request(self.command, path, start, num_bytes))


def _page(folder: Path) -> bytes:
    """A listing like Apache's, with its links to other orders and to the parent."""
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir())
    links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>\n' for name in names)
    head = '<a href="?C=N;O=D">Name</a> <a href="../">Parent Directory</a>'
    return f"<html><body>{head}<ul>{links}</ul></body></html>".encode()
