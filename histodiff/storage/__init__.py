"""The one door to local and object storage (fsspec, universal-pathlib, s3fs)."""

from histodiff.storage.copies import local_copy, sha256_of, upload_tree
from histodiff.storage.listing import file_sizes, found_files, list_names
from histodiff.storage.local_files import FoundFiles, NoFile
from histodiff.storage.paths import (
    async_filesystem,
    check_writable,
    create_bytes,
    modified_at,
    read_bytes,
    write_bytes,
)
from histodiff.storage.places import StoragePath, below, is_local, root_path, storage_path
from histodiff.storage.private import write_private
from histodiff.storage.ranges import RangeReader, range_reader
from histodiff.storage.remote import (
    file_facts,
    file_size,
    is_http,
    open_blockwise,
    read_ranges,
    told_apart,
)
from histodiff.storage.removal import remove_file, remove_tree
from histodiff.storage.versions import FileFacts, cut_short

__all__ = [
    "FileFacts",
    "FoundFiles",
    "NoFile",
    "RangeReader",
    "StoragePath",
    "async_filesystem",
    "below",
    "check_writable",
    "create_bytes",
    "cut_short",
    "file_facts",
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
    "root_path",
    "sha256_of",
    "storage_path",
    "told_apart",
    "upload_tree",
    "write_bytes",
    "write_private",
]
