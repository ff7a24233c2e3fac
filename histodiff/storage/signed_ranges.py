"""Byte ranges of S3 objects over plain HTTP connections: the fast way from S3 into memory.

s3fs signs a URL per object, with the endpoint, credentials and region that it has for everything
else (AWS_* variables, profiles, roles). The bytes then go from the connection into the caller's
memory without a copy. Connections are kept open, as many as there are threads that read.
What fails is tried again with growing pauses; an answer that is cut short has failed.
"""

import http.client
import re
import ssl
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, urlsplit

import botocore.session
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from upath import UPath

from histodiff.errors import HistodiffError, TransientError
from histodiff.storage.refusals import SERVER_ERRORS, misconfigured, refusal_in

_PAUSES = (0.1, 0.3, 1.0, 3.0, 9.0)
_TIMEOUT_SECONDS = 30
_SIGNED_SECONDS, _KEPT_SECONDS, _YOUNG_SECONDS = 3600, 900, 60
_SHOWN_BYTES = 1000
_PARTIAL, _MISSING, _BEYOND_END = 206, 404, 416
_REFUSED, _BUSY = (401, 403), 429


@dataclass(frozen=True)
class _Signed:
    """Path and query of a URL that may be read for a while."""

    target: str
    made: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since it was signed."""
        return time.monotonic() - self.made


@dataclass
class SignedRanges:
    """Ranges of the objects below a folder of a bucket."""

    folder: UPath
    pauses: tuple[float, ...] = _PAUSES
    """Seconds before every further try."""
    _urls: dict[str, _Signed] = field(default_factory=dict, init=False, repr=False)
    _idle: deque[http.client.HTTPConnection] = field(default_factory=deque, init=False, repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, _close_all, self._idle)

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """See `RangeReader`."""
        for pause in (*self.pauses, None):
            connection = self._connection()
            try:
                self._try(connection, name, buffer, offset)
            except (HistodiffError, FileNotFoundError, PermissionError, EOFError):
                connection.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                _close_all(self._idle)  # they may have been given up by the server as well
                if pause is None:
                    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
                    raise TransientError(
                        f"{self.folder / name}: {reason or type(error).__name__} (tried"
                        f" {len(self.pauses) + 1} times); check AWS_ENDPOINT_URL and the server"
                        " that it names"
                    ) from error
                time.sleep(pause)
            else:
                self._idle.append(connection)
                return

    def _try(
        self, connection: http.client.HTTPConnection, name: str, buffer: memoryview, offset: int
    ) -> None:
        signed = self._signed(name)
        headers = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        connection.request("GET", signed.target, headers=headers)
        response = connection.getresponse()
        if response.status in _REFUSED and signed.age > _YOUNG_SECONDS:
            self._urls.pop(name, None)
            raise OSError("the signature is not accepted any more")
        if response.status != _PARTIAL:
            raise self._refusal(name, response.status, response.read(_SHOWN_BYTES))
        given = response.getheader("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", given)
        if not found or int(found[1]) != offset:
            raise OSError(f"the answer has range '{given}' instead of '{headers['Range']}'")
        if int(found[2]) < offset + len(buffer):
            raise EOFError(f"{self.folder / name}: has {found[2]} bytes only")
        done = 0
        while done < len(buffer) and (count := response.readinto(buffer[done:])):
            done += count
        if done < len(buffer) or response.read(1):
            raise OSError(f"not {len(buffer)} bytes arrived from {offset} on, but {done} or more")

    def _refusal(self, name: str, status: int, body: bytes) -> Exception:
        place = str(self.folder / name)
        if status == _MISSING:
            return FileNotFoundError(f"{place}: there is no such object")
        if status == _BEYOND_END:
            return EOFError(f"{place}: it ends before")
        if status == _BUSY or status >= SERVER_ERRORS:
            return OSError(f"status {status}")
        return refusal_in(place, body, status) or PermissionError(
            f"{place}: the server gives no range of it (status {status}); check AWS_ENDPOINT_URL"
        )

    def _signed(self, name: str) -> _Signed:
        signed = self._urls.get(name)
        if signed is None or signed.age >= _KEPT_SECONDS:
            url = self._presigned(name)
            signed = self._urls[name] = _Signed(f"{url.path}?{url.query}")
        return signed

    def _presigned(self, name: str) -> SplitResult:
        path = f"{self.folder.path.rstrip('/')}/{name}"
        try:
            return urlsplit(str(self.folder.fs.sign(path, expiration=_SIGNED_SECONDS)))
        except (BotoCoreError, ValueError) as error:
            raise misconfigured(str(self.folder / name), error) or error from error

    def _connection(self) -> http.client.HTTPConnection:
        """One that is open and not in use, or a new one."""
        with suppress(IndexError):
            return self._idle.pop()
        server = self._presigned("")
        if server.scheme == "http":
            return http.client.HTTPConnection(server.netloc, timeout=_TIMEOUT_SECONDS)
        return http.client.HTTPSConnection(
            server.netloc, timeout=_TIMEOUT_SECONDS, context=self._tls
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        own = botocore.session.get_session().get_config_variable("ca_bundle")
        return ssl.create_default_context(cafile=get_cert_path(own or True))


def _close_all(connections: deque[http.client.HTTPConnection]) -> None:
    with suppress(IndexError):
        while True:
            connections.pop().close()
