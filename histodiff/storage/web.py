"""fsspec's file system for web servers, with bounds, logins from netrc, and versions held.

A server may lie, or never end: pages are read up to a limit, answers up to what was announced, and
a range is exactly the range. Each answer's ETag or date is compared with the one that is pinned.
"""

import re
from collections.abc import Mapping
from html import unescape
from typing import IO, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp
from fsspec.asyn import sync_wrapper
from fsspec.implementations.http import HTTPFileSystem
from fsspec.utils import isfilelike

from histodiff.credentials import authorization
from histodiff.errors import ConfigError
from histodiff.storage.versions import (
    MAX_OBJECT_BYTES,
    changed,
    cut_short,
    too_large,
)

MAX_PAGE_BYTES = 32 * 2**20
"""Largest page of links that is read."""
_BLOCK_BYTES = 2**20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[-a-zA-Z0-9@:%_+.~#?&/=]+")
_PARTIAL = 206


async def _login(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Adds the login of the request's own host, also where it was sent on to another."""
    found = authorization(str(request.url))
    if found and "Authorization" not in request.headers:
        request.headers["Authorization"] = found
    return await handler(request)


async def _client(**settings: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=_TIMEOUT, middlewares=(_login,), **settings)


class BoundedWeb(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files and pages of web servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"get_client": _client, **kwargs})

    async def _ls_real(self, url: str, detail: bool = True, **_: Any) -> Any:
        links = sorted(await self._links(url))
        if not detail:
            return links
        kinds = {True: "directory", False: "file"}
        return [{"name": link, "size": None, "type": kinds[link.endswith("/")]} for link in links]

    async def _links(self, url: str) -> set[str]:
        """Addresses below ``url`` that its page links to."""
        session = await self.set_session()
        async with session.get(self.encode_url(url), **self.kwargs) as answer:
            self._raise_not_found_for_status(answer, url)
            if "Content-Type" in answer.headers and answer.content_type != "text/html":
                return set()
            page = await _read(answer, MAX_PAGE_BYTES, url)
        return links_below(url, page.decode(errors="ignore"))

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = await super()._info(url, **kwargs)
        return {**found, "version": found.get("ETag") or found.get("Last-Modified") or ""}

    async def _cat_file(
        self,
        url: str,
        start: int | None = None,
        end: int | None = None,
        *,
        version: str = "",
        **_: Any,
    ) -> bytes:
        if start is None or end is None:
            assert start is end, "ranges have both ends"
            return await self._whole(url)
        if start == end:
            return b""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=headers) as answer:
            self._raise_not_found_for_status(answer, url)
            _check_version(answer, url, version)
            _check_range(answer, url, start)
            # one byte more shows that the server gives whole files
            return await _read_at_most(answer, end - start + 1)

    async def _whole(self, url: str) -> bytes:
        session = await self.set_session()
        async with session.get(self.encode_url(url)) as answer:
            self._raise_not_found_for_status(answer, url)
            return await _read(answer, MAX_OBJECT_BYTES, url)

    async def _get_file(
        self,
        rpath: str,
        lpath: Any,
        *_: Any,
        size: int | None = None,
        version: str = "",
        **__: Any,
    ) -> None:
        limit = MAX_OBJECT_BYTES if size is None else size
        session = await self.set_session()
        headers = {"Accept-Encoding": "identity"}
        async with session.get(self.encode_url(rpath), headers=headers) as answer:
            self._raise_not_found_for_status(answer, rpath)
            _check_version(answer, rpath, version)
            if isfilelike(lpath):
                done = await _copy(answer, lpath, limit)
            else:
                with open(lpath, "wb") as stream:
                    done = await _copy(answer, stream, limit)
        if size is not None and done != size:
            raise cut_short(rpath, size, done)
        if done > limit:
            raise too_large(rpath, done, limit)

    get_file = sync_wrapper(_get_file)


def links_below(url: str, page: str) -> set[str]:
    """Addresses below ``url`` that the page names, without queries and fragments."""
    base = url.rstrip("/") + "/"
    names = [unescape(link) for link in _LINK.findall(page)] + _ADDRESS.findall(page)
    found = set()
    for name in names:
        try:
            scheme, host, path, _, _ = urlsplit(urljoin(base, name.strip()))
        except ValueError:  # no address
            continue
        own = urlsplit(base)
        same = host == own.netloc and scheme in ("http", "https")
        if same and path.startswith(own.path) and len(path) > len(own.path):
            found.add(urlunsplit((own.scheme, host, path, "", "")))
    return found


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _check_version(answer: aiohttp.ClientResponse, url: str, version: str) -> None:
    found = _version(answer.headers)
    if version and found != version:
        raise changed(url, version, found)


def _check_range(answer: aiohttp.ClientResponse, url: str, start: int) -> None:
    given = answer.headers.get("Content-Range", "")
    if answer.status == _PARTIAL and not re.match(rf"bytes {start}-", given):
        raise ConfigError(
            f"{url}: the server gives the range '{given}' where byte {start} was asked for; use"
            " another server, or copy the files"
        )


async def _read(answer: aiohttp.ClientResponse, limit: int, url: str) -> bytes:
    announced = answer.content_length or 0
    data = b"" if announced > limit else await _read_at_most(answer, limit + 1)
    if announced > limit or len(data) > limit:
        raise too_large(url, max(announced, len(data)), limit)
    return data


async def _read_at_most(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    blocks, done = [], 0
    while done < limit and (block := await answer.content.read(min(_BLOCK_BYTES, limit - done))):
        blocks.append(block)
        done += len(block)
    return b"".join(blocks)


async def _copy(answer: aiohttp.ClientResponse, stream: IO[bytes], limit: int) -> int:
    """Bytes copied, as far as the block in which the limit is passed."""
    done = 0
    while done <= limit and (block := await answer.content.read(_BLOCK_BYTES)):
        stream.write(block)
        done += len(block)
    return done
