"""s3fs with literal names, patience with servers that fail, and refusals that say the fix.

s3fs takes ``*?[`` in the path of a deletion for a pattern and ``?versionId=`` for a version: here
nothing is a pattern, and what is deleted is named key by key. It repeats 503 and no other 5xx: here
all alike. Every request goes through ``_call_s3``, so its errors get their meaning there, whoever
asked (universal-pathlib and zarr among them).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import set_custom_error_handler

from histodiff.errors import ConfigError, HistodiffError, TransientError
from histodiff.storage.refusals import (
    SERVER_ERRORS,
    UNEXPLAINED,
    error_code,
    is_overload,
    misconfigured,
    no_bucket,
    one_line,
    refusal,
    status_of,
    unreachable,
)
from histodiff.storage.versions import (
    MAX_OBJECT_BYTES,
    changed,
    cut_short,
    pinned,
    pinned_version,
    too_large,
)

set_custom_error_handler(is_overload)

MAX_PAGES = 100_000
"""Pages of 1,000 keys in one listing: a server that gives more is taken to be out of order."""
_KEYS_AT_ONCE = 1000
_PART_BYTES, _PARTS_AT_ONCE = 50 * 2**20, 10
_ANOTHER = ("PreconditionFailed", "412")
_ALWAYS_THERE = {
    "get_object": "ETag", "head_object": "ETag", "put_object": "ETag", "list_objects_v2": "Name",
}  # fmt: skip
"""What an S3 server's answer has; the pages of others are parsed into empty answers."""


class LiteralS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3, where every name is a name."""

    async def _expand_path(self, path: Any, *args: Any, **kwargs: Any) -> list[str]:
        found: list[str] = await super()._expand_path(
            path, *args, **{**kwargs, "assume_literal": True}
        )
        return found

    async def _glob(self, path: str, **_: Any) -> list[str]:
        raise NotImplementedError(f"{path}: names are literal; list the folder instead")

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key; the third, a version, is None always."""
        plain = self._strip_protocol(path).lstrip("/")
        if "/" not in plain:
            return plain, "", None
        bucket, key = self._find_bucket_key(plain)
        return bucket, key + path[len(path.rstrip("/")) :], None

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,
        start: int | None = None,
        end: int | None = None,
        *,
        version: str = "",
        **_: Any,
    ) -> bytes:
        if start is not None or end is not None:
            with pinned(version):
                return await self._got(path, start, end)
        found = await self._info(path)
        if found["size"] > MAX_OBJECT_BYTES:
            raise too_large(f"s3://{path}", found["size"], MAX_OBJECT_BYTES)
        if found["size"] <= _PART_BYTES:
            return await self._got(path, None, None)
        with pinned(str(found["ETag"])):
            return await self._got_in_parts(path, found["size"])

    async def _got(self, path: str, start: int | None, end: int | None) -> bytes:
        data: bytes = await super()._cat_file(path, start=start, end=end, max_concurrency=1)
        return data

    async def _got_in_parts(self, path: str, size: int) -> bytes:
        together, data = asyncio.Semaphore(_PARTS_AT_ONCE), bytearray(size)

        async def part(start: int) -> None:
            end = min(start + _PART_BYTES, size)
            async with together:
                found = await self._got(path, start, end)
            if len(found) != end - start:
                raise cut_short(f"s3://{path}", end - start, len(found))
            data[start:end] = found

        await asyncio.gather(*map(part, range(0, size, _PART_BYTES)))
        return bytes(data)

    async def _get_file(
        self,
        rpath: str,
        lpath: Any,
        *args: Any,
        size: int | None = None,
        version: str = "",
        **kwargs: Any,
    ) -> None:
        with pinned(version):
            await super()._get_file(rpath, lpath, *args, **kwargs)
        found = os.path.getsize(lpath)
        if size is not None and found != size:
            raise cut_short(f"s3://{rpath}", size, found)

    get_file = sync_wrapper(_get_file)

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        version = pinned_version() if method == "get_object" else ""
        if version:
            kwargs["IfMatch"] = version
        names = (kwargs.get("Bucket"), kwargs.get("Key") or kwargs.get("Prefix"))
        place = "/".join(str(name).rstrip("/") for name in names if name)
        try:
            answer = await super()._call_s3(method, *args, **kwargs)
        except (FileExistsError, HistodiffError):
            raise
        except (OSError, ClientError, BotoCoreError, ValueError) as error:
            if version and error_code(error) in _ANOTHER:
                raise changed(f"s3://{place}", version, "") from error
            meaning = await self._meaning(f"s3://{place}", error, kwargs)
            if meaning is None:
                raise
            raise meaning from error
        if not answer.get(_ALWAYS_THERE.get(method, "ResponseMetadata")):
            raise ConfigError(
                f"s3://{place}: what answers is no S3 server: a proxy, or the login page of the"
                " network, may stand before it; check AWS_ENDPOINT_URL and the network"
            )
        if version and answer["ETag"] != version:
            raise changed(f"s3://{place}", version, answer["ETag"])
        return answer

    async def _meaning(
        self, place: str, error: Exception, asked: dict[str, Any]
    ) -> Exception | None:
        """What the error should be; None where it says all."""
        code = error_code(error)
        if isinstance(error, FileNotFoundError):
            return no_bucket(asked["Bucket"]) if code == "NoSuchBucket" else None
        if isinstance(error, (HTTPClientError, BotoConnectionError, SSLError)):
            return unreachable(place, error)
        if not code:
            return None if isinstance(error, OSError) else misconfigured(place, error)
        if status_of(error) >= SERVER_ERRORS:
            return TransientError(f"{place}: the server fails ({code}: {one_line(error)})")
        if code in UNEXPLAINED and "Prefix" not in asked:
            code = await self._explained(code, asked)
        return refusal(place, code, str(error))

    async def _explained(self, code: str, asked: dict[str, Any]) -> str:
        """The code of a request that failed without a word, from one whose answer has a body."""
        try:
            await super()._call_s3(
                "list_objects_v2", Bucket=asked["Bucket"], Prefix=asked.get("Key", ""), MaxKeys=1
            )
        except (OSError, ClientError) as error:
            return error_code(error) or code
        return code

    async def _list_pages(self, method: str, **kwargs: Any) -> AsyncIterator[Any]:
        place = f"s3://{kwargs.get('Bucket')}/{kwargs.get('Prefix', '')}"
        seen: set[Any] = set()
        async for page in super()._list_pages(method, **kwargs):
            token = page.get("NextContinuationToken")
            if (token and token in seen) or len(seen) > MAX_PAGES:
                raise ConfigError(
                    f"{place}: the listing has no end ({len(seen)} pages); check the server that"
                    " AWS_ENDPOINT_URL names"
                )
            seen.add(token)
            yield page

    async def _delete_keys(self, bucket: str, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            objects = [{"Key": key} for key in keys[first : first + _KEYS_AT_ONCE]]
            answer = await self._call_s3(
                "delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}
            )
            for failed in answer.get("Errors", [])[:1]:
                place = f"s3://{bucket}/{failed.get('Key', '')}"
                code = str(failed.get("Code", ""))
                raise refusal(place, code) or TransientError(f"{place}: not deleted ({code})")

    delete_keys = sync_wrapper(_delete_keys)

    async def _remove_below(self, path: str) -> None:
        bucket, key, _ = self.split_path(path.rstrip("/"))
        assert key, "a bucket is never removed"
        pages = self._list_pages("list_objects_v2", Bucket=bucket, Prefix=f"{key}/")
        keys = [each["Key"] async for page in pages for each in page.get("Contents", [])]
        await self._delete_keys(bucket, [*keys, key])

    remove_below = sync_wrapper(_remove_below)
