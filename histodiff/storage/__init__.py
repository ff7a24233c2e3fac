"""The one door to local and object storage (fsspec, universal-pathlib, s3fs)."""

from histodiff.storage.local_files import FoundFiles, NoFile
from histodiff.storage.paths import (
    StoragePath,
    async_filesystem,
    check_writable,
    create_bytes,
    file_sizes,
    found_files,
    is_local,
    list_names,
    local_copy,
    modified_at,
    read_bytes,
    remove_file,
    remove_tree,
    sha256_of,
    storage_path,
    upload_tree,
    write_bytes,
)
from histodiff.storage.private import write_private
from histodiff.storage.ranges import RangeReader, range_reader
from histodiff.storage.remote import file_size, is_http, open_blockwise, read_ranges, told_apart

__all__ = [
    "FoundFiles",
    "NoFile",
    "RangeReader",
    "StoragePath",
    "async_filesystem",
    "check_writable",
    "create_bytes",
    "file_size",
    "file_sizes",
    "found_files",
    "is_http",
    "is_local",
    "list_names",
    "local_copy",
    "modified_at",
    "open_blockwise",
    "range_reader",
    "read_bytes",
    "read_ranges",
    "remove_file",
    "remove_tree",
    "sha256_of",
    "storage_path",
    "told_apart",
    "upload_tree",
    "write_bytes",
    "write_private",
]
