"""The one door to local and object storage (fsspec, universal-pathlib, s3fs)."""

from histodiff.storage.paths import (
    StoragePath,
    async_filesystem,
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

__all__ = [
    "StoragePath",
    "async_filesystem",
    "check_writable",
    "create_bytes",
    "file_sizes",
    "is_local",
    "list_names",
    "local_copy",
    "remove_tree",
    "sha256_of",
    "storage_path",
    "upload_tree",
    "write_bytes",
]
