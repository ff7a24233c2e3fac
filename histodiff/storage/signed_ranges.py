"""Byte ranges of S3 objects over plain HTTP connections: the fast way from S3 into memory.

s3fs signs a URL per object, with the endpoint, credentials and region that it has for everything
else (AWS_* variables, profiles, roles). The bytes then go from the connection into the caller's
memory without a copy. Every thread has a connection of its own, which is kept open.
What fails is tried again with growing pauses; an answer that is cut short has failed.
"""

import http.client
import ssl
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, urlsplit

import botocore.session
from botocore.httpsession import get_cert_path
from upath import UPath

from histodiff.errors import TransientError

_PAUSES = (0.1, 0.3, 1.0, 3.0, 9.0)
_TIMEOUT_SECONDS = 30
_SIGNED_SECONDS, _KEPT_SECONDS, _YOUNG_SECONDS = 3600, 900, 60
_SHOWN_BYTES = 1000
_PARTIAL, _MISSING, _BEYOND_END = 206, 404, 416
_REFUSED, _BUSY, _SERVER_ERRORS = (401, 403), 429, 500


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
    _urls: dict[str, _Signed] = field(default_factory=dict, init=False, repr=False)
    _local: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """See `RangeReader`."""
        for pause in (*_PAUSES, None):
            try:
                return self._try(name, buffer, offset)
            except (FileNotFoundError, PermissionError):
                raise
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                if pause is None:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise TransientError(
                        f"{self.folder / name}: {reason} (tried {len(_PAUSES) + 1} times)"
                    ) from error
                time.sleep(pause)
        return None

    def _try(self, name: str, buffer: memoryview, offset: int) -> None:
        signed = self._signed(name)
        headers = {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        connection = self._connection()
        connection.request("GET", signed.target, headers=headers)
        response = connection.getresponse()
        if response.status != _PARTIAL:
            body = response.read(_SHOWN_BYTES)
            self._hang_up()
            if response.status in _REFUSED and signed.age > _YOUNG_SECONDS:
                self._urls.pop(name, None)
                raise OSError("the signature is not accepted any more")
            raise self._refusal(name, response.status, body)
        found = response.getheader("Content-Range", "")
        if not found.startswith(f"bytes {offset}-"):
            raise OSError(f"the answer has {found or 'no range'} instead of {headers['Range']}")
        done = 0
        while done < len(buffer) and (count := response.readinto(buffer[done:])):
            done += count
        if done < len(buffer) or response.read(1):
            raise OSError(f"not {len(buffer)} bytes arrived from {offset} on, but {done} or more")

    def _refusal(self, name: str, status: int, body: bytes) -> Exception:
        said = " ".join(body.decode(errors="replace").split())
        text = f"{self.folder / name}: status {status}: {said}"
        if status == _MISSING:
            return FileNotFoundError(text)
        if status == _BEYOND_END:
            return EOFError(text)
        if status == _BUSY or status >= _SERVER_ERRORS:
            return OSError(f"status {status}")
        return PermissionError(text)

    def _signed(self, name: str) -> _Signed:
        signed = self._urls.get(name)
        if signed is None or signed.age >= _KEPT_SECONDS:
            url = self._presigned(name)
            signed = self._urls[name] = _Signed(f"{url.path}?{url.query}")
        return signed

    def _presigned(self, name: str) -> SplitResult:
        path = f"{self.folder.path.rstrip('/')}/{name}"
        return urlsplit(str(self.folder.fs.sign(path, expiration=_SIGNED_SECONDS)))

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection."""
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._new_connection()
        connection: http.client.HTTPConnection = self._local.connection
        return connection

    def _new_connection(self) -> http.client.HTTPConnection:
        server = self._presigned("")
        if server.scheme == "http":
            return http.client.HTTPConnection(server.netloc, timeout=_TIMEOUT_SECONDS)
        return http.client.HTTPSConnection(
            server.netloc, timeout=_TIMEOUT_SECONDS, context=self._tls
        )

    def _hang_up(self) -> None:
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        own = botocore.session.get_session().get_config_variable("ca_bundle")
        return ssl.create_default_context(cafile=get_cert_path(own or True))
