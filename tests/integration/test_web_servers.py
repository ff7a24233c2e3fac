"""Web servers and buckets that lie, never end, or change: one line, and never another result."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from histodiff.data_prep.readers.byte_source import ByteRange, byte_source
from histodiff.data_prep.sources.hashing import content_hash
from histodiff.errors import ConfigError, FileChanged, SlideError
from histodiff.storage import (
    FileFacts,
    StoragePath,
    file_facts,
    file_sizes,
    local_copy,
    open_blockwise,
    read_bytes,
    read_ranges,
    sha256_of,
    storage_path,
)
from tests.integration.test_s3_refusals import s3_at
from tests.support.answering_server import Answer, Asked, answering_server

DATA = bytes(range(256)) * 4000
HUGE = 2**50


def page(*links: str) -> Answer:
    body = "".join(f'<a href="{link}">x</a>' for link in links).encode()
    return Answer(200, body, {"Content-Type": "text/html"})


def ranged(asked: Asked, data: bytes, headers: dict[str, str]) -> Answer:
    wanted = asked.headers.get("Range")
    if wanted is None:
        return Answer(200, data, headers)
    first, last = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
    part = data[first : last + 1]
    if not part:
        return Answer(416)
    stated = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
    return Answer(206, part, {**headers, **stated})


@pytest.mark.parametrize(
    "links", [("sub/",), ("sub/", "other/"), ("a.svs", "sub/../sub/"), ("./sub/", "?C=N", "../")]
)
def test_pages_that_link_to_themselves_end_in_one_line(links: tuple[str, ...]) -> None:
    with answering_server(lambda _: page(*links)) as server:
        with pytest.raises(ConfigError, match="without end"):
            file_sizes(storage_path(server.url))
        assert len(server.asked) < 100


def test_pages_that_link_to_one_another_are_each_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"/": page("a/", "b/"), "/a/": page("/b/", "/", "x.svs"), "/b/": page("/a/", "y.svs")}
    with answering_server(lambda asked: pages.get(asked.path, Answer(200, b"12"))) as server:
        assert file_sizes(storage_path(server.url)) == {"a/x.svs": 2, "b/y.svs": 2}
        listed = [asked.path for asked in server.asked if asked.method == "GET"]
    assert sorted(listed) == ["/", "/a/", "/b/"]


def test_page_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histodiff.storage.web.MAX_PAGE_BYTES", 2**16)
    with (
        answering_server(lambda _: page(*map(str, range(10_000)))) as server,
        pytest.raises(ConfigError, match="no more than 65,536"),
    ):
        file_sizes(storage_path(server.url))


def lying(asked: Asked) -> Answer:
    """A size of a petabyte, and the bytes of a small file."""
    stated = {"ETag": '"1"', "Content-Length": str(HUGE)}
    return (
        Answer(200, b"", stated) if asked.method == "HEAD" else ranged(asked, DATA, {"ETag": '"1"'})
    )


def places(url: str) -> list[StoragePath]:
    return [storage_path(f"{url}/file.svs"), storage_path("s3://bucket/file.svs")]


@pytest.mark.parametrize("kind", ["web", "s3"])
def test_sizes_that_are_lies_end_in_one_line(kind: str) -> None:
    with answering_server(lying) as server, s3_at(server.url):
        path = places(server.url)[kind == "s3"]
        assert file_facts(path) == FileFacts(HUGE, '"1"')
        with pytest.raises(FileChanged, match="announced"):
            content_hash(path, size_bytes=HUGE, version='"1"')
        with (
            pytest.raises(ConfigError, match="room for"),
            local_copy(path, facts=file_facts(path)),
        ):
            pass
        with pytest.raises(FileChanged, match="announced"):
            sha256_of(path, facts=FileFacts(len(DATA) + 1, '"1"'))
        stream = open_blockwise(path, block_bytes=2**16, facts=FileFacts(HUGE, '"1"'))
        stream.seek(HUGE // 2)
        with pytest.raises(FileChanged, match="announced"):
            stream.read(10)
        if kind == "s3":
            with pytest.raises(ConfigError, match="announces"):
                read_bytes(path)


READS: dict[str, Callable[[StoragePath, FileFacts], object]] = {
    "ranges": lambda path, facts: read_ranges(path, [(0, 10), (90, 9)], version=facts.version),
    "digest": lambda path, facts: sha256_of(path, facts=facts),
    "hash": lambda path, facts: content_hash(path, size_bytes=facts.size, version=facts.version),
    "header": lambda path, facts: open_blockwise(path, block_bytes=2**16, facts=facts).read(9),
}


@pytest.mark.parametrize("kind", ["web", "s3"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("field", ["ETag", "Last-Modified"])
def test_content_that_changes_between_requests_is_an_error(
    kind: str, read: str, field: str
) -> None:
    if kind == "s3" and field != "ETag":
        pytest.skip("S3 has an ETag always")
    versions = {"ETag": ('"1"', '"2"'), "Last-Modified": ("Mon", "Tue")}[field]
    count = itertools.count()

    def changing(asked: Asked) -> Answer:
        return ranged(asked, DATA, {field: versions[min(next(count), 1)]})

    with answering_server(changing) as server, s3_at(server.url):
        path = places(server.url)[kind == "s3"]
        facts = file_facts(path)
        with pytest.raises(FileChanged, match="changed"):
            READS[read](path, facts)


@pytest.mark.parametrize("kind", ["web", "s3"])
@pytest.mark.parametrize("read", [*READS, "copy"])
def test_content_that_stays_is_read(kind: str, read: str) -> None:
    with (
        answering_server(lambda asked: ranged(asked, DATA, {"ETag": '"1"'})) as server,
        s3_at(server.url),
    ):
        path = places(server.url)[kind == "s3"]
        facts = file_facts(path)
        if read == "copy":
            with local_copy(path, facts=facts) as copy:
                assert copy.read_bytes() == DATA
        else:
            found = READS[read](path, facts)
            digest = hashlib.sha256(DATA).hexdigest()
            assert found in ([DATA[:10], DATA[90:99]], digest, f"sha256:{digest}", DATA[:9])


def test_tiles_of_a_slide_that_changes_are_no_pixels() -> None:
    count = itertools.count()
    with answering_server(
        lambda asked: ranged(asked, DATA, {"ETag": f'"{next(count)}"'})
    ) as server:
        path = storage_path(f"{server.url}/a.svs")
        source = byte_source(path, version=file_facts(path).version)
        with pytest.raises(SlideError, match="changed"):
            source.read([ByteRange(0, 100)])


def test_server_that_gives_another_range_is_refused() -> None:
    def shifted(asked: Asked) -> Answer:
        given = ranged(asked, DATA, {})
        return Answer(given.status, given.body, {"Content-Range": "bytes 5-14/99"})

    with answering_server(shifted) as server, pytest.raises(ConfigError, match="byte 0"):
        read_ranges(storage_path(f"{server.url}/a"), [(0, 10)])


def test_logins_of_netrc_go_to_their_own_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)

    def guarded(asked: Asked) -> Answer:
        known = asked.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ="
        return Answer(200, DATA, {"ETag": '"1"'}) if known else Answer(401)

    with answering_server(guarded) as server:
        path = storage_path(f"{server.url}/a")
        assert read_bytes(path) == DATA
        assert sha256_of(path) == hashlib.sha256(DATA).hexdigest()
        other = storage_path(f"{server.url.replace('127.0.0.1', 'localhost')}/a")
        with pytest.raises(PermissionError, match="netrc"):
            read_bytes(other)
