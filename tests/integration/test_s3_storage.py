"""The storage door on S3: the same contract as on a local folder."""

import socket

import pytest

from histodiff.cli.failures import user_message
from histodiff.errors import ConfigError
from histodiff.storage import (
    check_writable,
    create_bytes,
    file_sizes,
    is_local,
    list_names,
    local_copy,
    remove_tree,
    sha256_of,
    storage_path,
    upload_tree,
    write_bytes,
)
from histodiff.storage.s3 import LiteralS3

pytestmark = pytest.mark.s3


def test_s3_write_list_and_remove(s3_root):
    assert not is_local(s3_root)
    assert list_names(s3_root) == []
    assert file_sizes(s3_root) == {}
    write_bytes(s3_root / "a/one", b"1")
    write_bytes(s3_root / "a/b/two", b"22")
    assert list_names(s3_root / "a") == ["b", "one"]
    assert file_sizes(s3_root / "a") == {"b/two": 2, "one": 1}
    write_bytes(s3_root / "a/one", b"other")
    assert (s3_root / "a/one").read_bytes() == b"other"
    remove_tree(s3_root / "a")
    assert file_sizes(s3_root) == {}


def test_s3_listing_shows_what_another_client_wrote(s3_root):
    assert list_names(s3_root / "ledger") == []
    write_bytes(storage_path(f"{s3_root}/ledger/0.json"), b"{}")
    assert list_names(s3_root / "ledger") == ["0.json"]


def test_s3_create_only_where_none_is(s3_root):
    assert create_bytes(s3_root / "plan.json", b"first")
    assert not create_bytes(s3_root / "plan.json", b"second")
    assert (s3_root / "plan.json").read_bytes() == b"first"


def test_s3_local_copy_and_upload_keep_the_tree(s3_root, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"content")
    upload_tree(tmp_path, s3_root / "tree")
    with local_copy(s3_root / "tree") as folder:
        assert (folder / "sub" / "file").read_bytes() == b"content"
    assert sha256_of(s3_root / "tree/sub/file") == sha256_of(storage_path(tmp_path / "sub/file"))


def test_s3_bucket_that_does_not_exist_is_not_writable(s3_endpoint):
    del s3_endpoint
    with pytest.raises(ConfigError, match="set `root` of the site"):
        check_writable(storage_path("s3://no-such-bucket-here/runs"))


def test_s3_server_that_stops_answering_is_given_up_with_one_line(s3_endpoint, monkeypatch):
    del s3_endpoint
    monkeypatch.setattr(
        "histodiff.storage.places._S3_LIMITS",
        {"connect_timeout": 1, "read_timeout": 0.2, "retries": {"total_max_attempts": 1}},
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        LiteralS3.clear_instance_cache()
        with pytest.raises(Exception, match=r"timed out|timeout") as caught:
            storage_path("s3://bucket/object").read_bytes()
        LiteralS3.clear_instance_cache()
    assert "AWS_ENDPOINT_URL" in str(user_message(caught.value))
