"""Every metric that histodiff exports, declared in this one file.

Names: ``histodiff_<area>_<thing>_<unit>[_total]``. Labels are few and bounded; never slide ids.
"""

from prometheus_client import Counter, Gauge, Histogram

ENCODE_PATCHES = Counter(
    "histodiff_encode_patches", "Patches encoded and written to the latent store."
)
ENCODE_QUARANTINED = Counter(
    "histodiff_encode_quarantined_rows", "Rows quarantined instead of written.", ["reason"]
)
ENCODE_SHARD_SECONDS = Histogram(
    "histodiff_encode_shard_duration_seconds", "Time to read, encode and write one shard.",
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
)  # fmt: skip
ENCODE_BUSY_SECONDS = Counter(
    "histodiff_encode_busy_seconds", "Time that encoders had pixels to work on."
)
ENCODE_WAIT_SECONDS = Counter(
    "histodiff_encode_wait_seconds", "Time that encoders waited for pixels."
)
SYNTHESIZE_IMAGES = Counter("histodiff_synthesize_images", "Samples drawn and written.")
TILE_PATCHES = Counter("histodiff_tile_patches", "Patches indexed.")
TILE_RANGE_REQUESTS = Counter(
    "histodiff_tile_range_requests", "Range requests for tiles of remote slides."
)
TILE_FETCHED_BYTES = Counter(
    "histodiff_tile_fetched_bytes", "Bytes of remote slides that were fetched for tiles."
)
TILE_NEEDED_BYTES = Counter(
    "histodiff_tile_needed_bytes", "Bytes of the tiles that were needed of remote slides."
)
TILE_DECODED_BYTES = Counter(
    "histodiff_tile_decoded_bytes", "Bytes of pixels that were decoded from slides and images."
)
TILE_SHOWN_BYTES = Counter(
    "histodiff_tile_shown_bytes", "Bytes of the pixels that patches showed, before shrinking."
)
TILE_SLIDES = Counter("histodiff_tile_slides", "Slides finished.", ["status"])
TRAIN_IMAGES = Counter("histodiff_train_images", "Images seen by the trainer, all ranks.", ["run"])
TRAIN_IMAGES_PER_SECOND = Gauge(
    "histodiff_train_throughput_images_per_second", "Images per second, all ranks.", ["run"]
)
TRAIN_LOSS = Gauge("histodiff_train_loss_value", "Training loss of the last logged step.", ["run"])
TRAIN_GRAD_NORM = Gauge(
    "histodiff_train_grad_norm_value", "Gradient norm before clipping.", ["run"]
)
TRAIN_VALIDATION_LOSS = Gauge(
    "histodiff_train_validation_loss_value", "Validation loss at a noise level.", ["run", "sigma"]
)
TRAIN_SEEN_IMAGES = Gauge(
    "histodiff_train_seen_images", "Training clock: images since the start of the run.", ["run"]
)
TRAIN_LEARNING_RATE = Gauge(
    "histodiff_train_learning_rate_value", "Learning rate of the last logged step.", ["run"]
)
TRAIN_LOSS_SCALE = Gauge(
    "histodiff_train_loss_scale_value", "Factor on the loss, under fp16 only.", ["run"]
)
TRAIN_MFU = Gauge(
    "histodiff_train_mfu_ratio",
    "FLOP/s that the network needs, per rank, over the peak of the device.",
    ["run"],
)
TRAIN_PEAK_MEMORY = Gauge(
    "histodiff_train_peak_memory_bytes",
    "Peak memory of a rank: resident on a CPU, allocated by torch on a GPU.",
    ["run"],
)
TRAIN_STEP_SECONDS = Histogram(
    "histodiff_train_step_duration_seconds", "Wall time of one optimizer step.", ["run"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)  # fmt: skip
TRAIN_DATA_WAIT_SECONDS = Counter(
    "histodiff_train_data_wait_seconds", "Time the trainer waited for data.", ["run"]
)
READER_FETCHED_BYTES = Counter(
    "histodiff_reader_fetched_bytes", "Bytes of latents that were read from their storage."
)
READER_GIVEN_BYTES = Counter(
    "histodiff_reader_given_bytes", "Bytes of the rows of latents that batches were made of."
)
READER_INDEX_BYTES = Counter(
    "histodiff_reader_index_bytes", "Bytes of the indexes of shards that were read."
)
READER_REQUESTS = Counter(
    "histodiff_reader_requests", "Ranges of latents that were read from their storage."
)
READER_CACHE = Counter(
    "histodiff_reader_cache_requests", "Slabs looked for in the local cache.", ["outcome"]
)
TRAIN_CHECKPOINT_SECONDS = Histogram(
    "histodiff_train_checkpoint_duration_seconds", "Time to write one checkpoint.", ["run"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
)  # fmt: skip
TRAIN_SKIPPED_STEPS = Counter(
    "histodiff_train_skipped_steps", "Steps that overflowed fp16 and changed no weight.", ["run"]
)
TRAIN_ROLLBACKS = Counter(
    "histodiff_train_rollbacks", "Times training went back and passed over images.", ["run"]
)
TRAIN_RESUMES = Counter("histodiff_train_resumes", "Times a run was resumed.", ["run"])


def total(counter: Counter) -> int:
    """What a counter without labels has counted in this process."""
    (family,) = counter.collect()
    return int(sum(sample.value for sample in family.samples if sample.name.endswith("_total")))
