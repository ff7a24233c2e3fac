"""What S3 refuses ends in one line with the cause and the fix, whatever was asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from histodiff.artifacts import Kind, Reference, open_artifact
from histodiff.artifacts.artifact import read_plan
from histodiff.cli.failures import ExitCode, guarded, user_message
from histodiff.cluster.environment import environment
from histodiff.errors import (
    AccessRefused,
    ArtifactCorrupt,
    ConfigError,
    HistodiffError,
    TransientError,
)
from histodiff.storage import (
    StoragePath,
    check_writable,
    create_bytes,
    file_size,
    file_sizes,
    list_names,
    local_copy,
    modified_at,
    read_bytes,
    read_ranges,
    remove_file,
    remove_tree,
    sha256_of,
    storage_path,
    write_bytes,
)
from histodiff.storage.s3 import LiteralS3
from histodiff.storage.signed_ranges import SignedRanges
from tests.support.answering_server import Answer, answering_server, s3_error
from tests.support.s3 import aws_environment

pytestmark = pytest.mark.s3

ONE_TRY = {"connect_timeout": 2, "read_timeout": 5, "retries": {"total_max_attempts": 1}}


def copied(path: StoragePath) -> None:
    with local_copy(path):
        pass


def read_into(path: StoragePath) -> None:
    SignedRanges(path.parent, pauses=(0.01,)).read_into(
        path.name, memoryview(bytearray(4)), offset=0
    )


OPERATIONS: dict[str, Callable[[StoragePath], object]] = {
    "read": read_bytes,
    "read_method": lambda path: path.read_bytes(),
    "ranges": lambda path: read_ranges(path, [(0, 4), (8, 4)]),
    "read_into": read_into,
    "digest": sha256_of,
    "copy": copied,
    "size": file_size,
    "modified": modified_at,
    "exists": lambda path: path.exists(),
    "list": list_names,
    "sizes": file_sizes,
    "write": lambda path: write_bytes(path, b"data"),
    "create": lambda path: create_bytes(path, b"data"),
    "remove_file": remove_file,
    "remove_tree": remove_tree,
    "probe": check_writable,
}
REFUSALS = {
    "InvalidAccessKeyId": (403, ConfigError, "AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": (403, ConfigError, "AWS_SECRET_ACCESS_KEY"),
    "RequestTimeTooSkewed": (403, ConfigError, "clock"),
    "ExpiredToken": (400, ConfigError, "expired"),
    "InvalidToken": (400, ConfigError, "AWS_SESSION_TOKEN"),
    "AuthorizationHeaderMalformed": (400, ConfigError, "AWS_DEFAULT_REGION"),
    "AccessDenied": (403, AccessRefused, "access is denied"),
}


@contextmanager
def s3_at(endpoint: str) -> Iterator[StoragePath]:
    with aws_environment(endpoint, key="testing", secret="testing"):
        yield storage_path("s3://bucket/folder/object")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histodiff.storage.places._S3_LIMITS", ONE_TRY)
    monkeypatch.setattr(LiteralS3, "retries", 2)


def failure(operation: str, path: StoragePath) -> Exception:
    with pytest.raises(Exception) as caught:
        OPERATIONS[operation](path)
    line = user_message(caught.value)
    assert line is not None, caught.value
    assert "\n" not in line
    assert "None" not in line
    assert "[Errno" not in line
    return caught.value


@pytest.mark.parametrize("code", REFUSALS)
def test_refusals_say_cause_and_fix_in_every_operation(code: str) -> None:
    status, kind, said = REFUSALS[code]
    with answering_server(lambda _: s3_error(status, code)) as server, s3_at(server.url) as path:
        for operation in OPERATIONS:
            error = failure(operation, path)
            expected = ConfigError if operation == "probe" else kind
            assert isinstance(error, expected), operation
            assert said in str(error), operation
            assert "s3://bucket" in str(error), operation


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_servers_that_fail_for_ever_are_a_transient_error(status: int) -> None:
    with (
        answering_server(lambda _: s3_error(status, "InternalError")) as server,
        s3_at(server.url) as path,
    ):
        for operation in ("read", "exists", "list", "write", "remove_tree"):
            server.asked.clear()
            error = failure(operation, path)
            assert isinstance(error, TransientError), operation
            assert len(server.asked) > 1, operation


def test_bucket_that_is_not_there_is_named() -> None:
    with (
        answering_server(lambda _: s3_error(404, "NoSuchBucket")) as server,
        s3_at(server.url) as path,
    ):
        for operation in ("write", "probe"):
            assert "s3://bucket: there is no such bucket" in str(failure(operation, path))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "junk", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "AWS_ENDPOINT_URL"),
        ("AWS_DEFAULT_REGION", "../x", "AWS_DEFAULT_REGION"),
        ("AWS_PROFILE", "no-such-profile", "no-such-profile"),
    ],
)
def test_settings_that_cannot_be_are_one_line(variable: str, value: str, said: str) -> None:
    with (
        answering_server(lambda _: Answer(404)) as server,
        s3_at(server.url) as path,
        environment({variable: value}),
    ):
        for operation in ("read", "read_into", "exists", "list", "create", "probe"):
            LiteralS3.clear_instance_cache()
            error = failure(operation, storage_path(str(path)))
            assert isinstance(error, HistodiffError), operation
            assert said in str(error), operation


def test_bucket_names_that_cannot_be_are_one_line() -> None:
    with answering_server(lambda _: Answer(404)) as server, s3_at(server.url):
        for operation in ("read", "exists", "list", "write", "probe"):
            assert "bucket" in str(failure(operation, storage_path("s3://Not A Bucket/x/y")))


def test_page_of_a_captive_portal_is_no_object() -> None:
    page = Answer(200, b"<html><body>Log in</body></html>", {"Content-Type": "text/html"})
    with answering_server(lambda _: page) as server, s3_at(server.url) as path:
        for operation in ("read", "write", "create", "ranges", "exists", "list", "probe"):
            error = failure(operation, path)
            assert isinstance(error, HistodiffError), operation
            assert "AWS_ENDPOINT_URL" in str(error), operation


def test_refusal_ends_with_exit_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        answering_server(lambda _: s3_error(403, "InvalidAccessKeyId")) as server,
        s3_at(server.url) as path,
    ):
        assert guarded(lambda: len(read_bytes(path))) == ExitCode.USER
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_removal_is_advised_on_this_machine_alone(
    s3_root: StoragePath, tmp_path: Path, name: str
) -> None:
    reference = Reference.of(Kind.PATCHES, "im", "v1")
    for root in (s3_root, storage_path(tmp_path)):
        write_bytes(root / reference.folder / name, b"<html>Log in</html>")
        with pytest.raises(ArtifactCorrupt) as caught:
            _ = read_plan(root / reference.folder) or open_artifact(root, reference)
        assert ("remove" in str(caught.value)) == (root is not s3_root)
        assert ("AWS_ENDPOINT_URL" in str(caught.value)) == (root is s3_root)
