"""What a reader of pixels must know of a patch: the seam between tables of patches and plans.

An index of patches has these columns among others; the plan of a store's shards takes no more.
"""

import pyarrow as pa

READ_SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("path", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("level", pa.int32()),
        ("read_width", pa.int32()),
        ("read_height", pa.int32()),
    ]
)
"""``path`` is of an image in a patch set, else empty. ``x`` and ``y`` are in pixels of level 0, the
size in pixels of ``level``."""
