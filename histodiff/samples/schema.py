"""Columns of the two tables, and Parquet as bytes.

A row of a SampleStore says how its image came to be: with the artifacts it names, the image can be
drawn again. Nothing here depends on the time or the machine, so equal samples give equal bytes.
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE_COLUMNS = pa.schema(
    [
        pa.field("sample", pa.int64(), nullable=False),  # global index; decides the noise
        pa.field("label", pa.string(), nullable=False),  # class that was asked for
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("guide", pa.string(), nullable=False),  # content digest of the Guide
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("sampler", pa.string(), nullable=False),  # JSON of sampler and schedule
        pa.field("denoiser", pa.string(), nullable=False),  # content digest of the Denoiser
        pa.field("decoder_sha256", pa.string(), nullable=False),
        pa.field("guide_log_prob", pa.float32(), nullable=False),  # log p(label | finished latent)
    ]
)
SOURCE_COLUMNS = pa.schema(
    [  # of samples that vary a labelled latent, after those above; the last if stains are given
        pa.field("source_patch", pa.int64(), nullable=False),  # its number in the PatchIndex
        pa.field("start_sigma", pa.float64(), nullable=False),  # noise level it was noised to
        pa.field("stain_slide", pa.string()),  # slide whose stain it was given first; null: its own
    ]
)
PNG = pa.field("png", pa.binary(), nullable=False)

SELECTION_COLUMNS = pa.schema(
    [
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("order", pa.int64(), nullable=False),  # place among the accepted; -1 if rejected
        pa.field("distance", pa.float64()),  # to the centroid of its own class
        pa.field("nearest", pa.string()),  # class of the nearest centroid
        pa.field("real_similarity", pa.float64()),  # largest cosine to a real training feature
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
SCORE, GROUP, REASONS = "score.", "group.", "reasons"
"""Beginnings of the columns with the scores of a combined rule and with the groups of its quotas,
and the column of all reasons."""


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file; PNG bytes do not compress, so nothing is compressed."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="NONE", write_statistics=False)
    return buffer.getvalue()
