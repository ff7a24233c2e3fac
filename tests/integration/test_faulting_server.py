"""Storage and ``encode`` on a server that fails, through a proxy that injects the faults."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from histodiff.artifacts import Artifact
from histodiff.cli.failures import user_message
from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.readers.image_files import decode_image
from histodiff.errors import SlideError, TransientError
from histodiff.storage import (
    StoragePath,
    create_bytes,
    file_sizes,
    list_names,
    read_bytes,
    read_ranges,
    remove_file,
    remove_tree,
    sha256_of,
    storage_path,
    write_bytes,
)
from histodiff.storage.s3 import LiteralS3
from histodiff.workflows.encode import encode
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import encode_config, write_inputs
from tests.support.faulting_proxy import (
    INTERNAL,
    KINDS,
    LOST,
    METHODS,
    RESET,
    SHORT_ANSWER,
    SHORT_UPLOAD,
    SLOW_DOWN,
    FaultingProxy,
)
from tests.support.s3 import aws_environment

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 800
ONE_TRY = {"connect_timeout": 2, "read_timeout": 5, "retries": {"total_max_attempts": 1}}


@pytest.fixture
def proxy(s3_endpoint: str, s3_root: StoragePath) -> Iterator[FaultingProxy]:
    del s3_root  # its bucket is made without the proxy
    with (
        FaultingProxy(s3_endpoint) as running,
        aws_environment(running.endpoint, key="testing", secret="testing"),
    ):
        yield running


@contextmanager
def direct(endpoint: str) -> Iterator[None]:
    with aws_environment(endpoint, key="testing", secret="testing"):
        yield


@pytest.mark.parametrize("kind", [SLOW_DOWN, INTERNAL, RESET, LOST, SHORT_ANSWER])
def test_reads_that_fail_twice_give_the_right_bytes(
    proxy: FaultingProxy, s3_root: StoragePath, kind: str
) -> None:
    place = storage_path(f"{s3_root}/object")
    write_bytes(place, DATA)
    proxy.kinds, proxy.methods = (kind,), ("GET",)
    reads = {
        "whole": lambda: read_bytes(place) == DATA,
        "ranges": lambda: read_ranges(place, [(3, 9), (500, 7)]) == [DATA[3:12], DATA[500:507]],
        "digest": lambda: sha256_of(place) == hashlib.sha256(DATA).hexdigest(),
        "listing": lambda: list_names(storage_path(str(s3_root))) == ["object"],
        "sizes": lambda: file_sizes(storage_path(str(s3_root))) == {"object": len(DATA)},
    }
    for name, succeeds in reads.items():
        proxy.disturb(seed=1, rate=1.0, most=2)
        assert succeeds(), name
        assert proxy.found[kind] == 2, name


@pytest.mark.parametrize("kind", [SLOW_DOWN, INTERNAL, RESET, LOST, SHORT_UPLOAD])
def test_writes_that_fail_twice_put_the_whole_object_once(
    proxy: FaultingProxy, s3_root: StoragePath, kind: str
) -> None:
    proxy.kinds, proxy.methods = (kind,), ("PUT",)
    proxy.disturb(seed=1, rate=1.0, most=2)
    write_bytes(storage_path(f"{s3_root}/written"), DATA)
    assert proxy.found[kind] == 2
    proxy.disturb(seed=1, rate=1.0, most=2)
    assert create_bytes(storage_path(f"{s3_root}/created"), DATA)  # its retry is no other writer
    assert proxy.found[kind] == 2
    assert not create_bytes(storage_path(f"{s3_root}/created"), b"of another")
    for name in ("written", "created"):
        assert read_bytes(storage_path(f"{s3_root}/{name}")) == DATA


@pytest.mark.parametrize("kind", [SLOW_DOWN, INTERNAL])
def test_server_that_fails_four_times_in_a_row_is_survived_by_every_operation(
    proxy: FaultingProxy, s3_root: StoragePath, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("histodiff.storage.places._S3_LIMITS", ONE_TRY)  # botocore repeats nothing
    LiteralS3.clear_instance_cache()
    place = storage_path(f"{s3_root}/object")
    proxy.kinds = (kind,)
    operations = {
        "create": lambda: create_bytes(place, DATA),
        "exists": lambda: place.exists(),
        "read": lambda: read_bytes(place) == DATA,
        "method": lambda: place.read_bytes() == DATA,
        "list": lambda: list_names(storage_path(str(s3_root))) == ["object"],
        "remove": lambda: remove_file(place) is None,
        "remove_tree": lambda: remove_tree(place) is None,
        "nothing": lambda: not place.exists(),
    }
    for name, succeeds in operations.items():
        proxy.disturb(seed=1, rate=1.0, most=4)
        assert succeeds(), name
        assert proxy.found[kind] == 4, name


def test_upload_that_is_always_cut_short_leaves_no_object(
    proxy: FaultingProxy, s3_root: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histodiff.storage.places._S3_LIMITS", ONE_TRY)
    LiteralS3.clear_instance_cache()
    proxy.kinds, proxy.methods = (SHORT_UPLOAD,), ("PUT",)
    proxy.disturb(seed=1, rate=1.0)
    with pytest.raises(TransientError):
        write_bytes(storage_path(f"{s3_root}/object"), DATA)
    assert list_names(storage_path(str(s3_root))) == []


@pytest.mark.parametrize("kind", [SLOW_DOWN, RESET, SHORT_ANSWER])
def test_server_that_fails_for_ever_is_given_up_in_one_line(
    proxy: FaultingProxy, s3_root: StoragePath, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = storage_path(f"{s3_root}/object")
    write_bytes(place, DATA)
    monkeypatch.setattr("histodiff.storage.places._S3_LIMITS", ONE_TRY)
    LiteralS3.clear_instance_cache()
    proxy.kinds = (kind,)
    proxy.disturb(seed=1, rate=1.0)
    for read in (read_bytes, sha256_of, lambda path: read_ranges(path, [(0, 1000)])):
        with pytest.raises(TransientError) as caught:
            read(storage_path(str(place)))
        assert "\n" not in str(user_message(caught.value))


def test_image_that_an_overloaded_server_does_not_give_is_not_a_broken_image(
    proxy: FaultingProxy, s3_root: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(storage_path(f"{s3_root}/image.png"), b"never decoded")
    monkeypatch.setattr("histodiff.storage.places._S3_LIMITS", ONE_TRY)
    LiteralS3.clear_instance_cache()
    proxy.kinds = (SLOW_DOWN,)
    proxy.disturb(seed=1, rate=1.0)
    with pytest.raises(TransientError):
        decode_image(storage_path(f"{s3_root}/image.png"))
    proxy.quiet()
    with pytest.raises(SlideError, match=r"image\.png"):
        decode_image(storage_path(f"{s3_root}/image.png"))


def test_encode_on_a_failing_server_ends_with_the_same_content(
    proxy: FaultingProxy, s3_endpoint: str, s3_root: StoragePath, tmp_path: Path
) -> None:
    site = Site(root=str(s3_root), ray=NoRay(type="none"), device="cpu")
    with direct(s3_endpoint):
        write_inputs(storage_path(str(s3_root)), tmp_path / "images")
        whole = encode(encode_config(version="whole"), site).manifest
    LiteralS3.clear_instance_cache()
    proxy.kinds, proxy.methods = KINDS, METHODS
    proxy.disturb(seed=11, rate=0.1)
    disturbed = _until_done(site)
    assert proxy.found.total() > 5
    proxy.quiet()
    assert disturbed.manifest.content_sha256 == whole.content_sha256
    assert disturbed.manifest.files == whole.files
    assert verify("latents@disturbed", site) == []


def _until_done(site: Site) -> Artifact:
    """The same command until it ends, as a user would."""
    for _ in range(5):
        try:
            return encode(encode_config(version="disturbed"), site)
        except TransientError:
            continue
    raise AssertionError("five runs, and not done")
