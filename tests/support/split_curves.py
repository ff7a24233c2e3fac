"""One global batch cut in several ways: the same loss curve.

``python -m tests.support.split_curves`` trains 200 steps in fp32 with each cut and prints how far
the curves are apart; it ends with 1 if any is more than 1e-4 from the first.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.support.gang_processes import Gang, exit_codes
from tests.support.pretraining import finished_store, tiny_config

TOLERANCE, STEPS, BATCH = 1e-4, 200, 16
CUTS = ((1, 16), (1, 4), (2, 8), (2, 2))
"""World size and micro-batch."""


@dataclass(frozen=True)
class Curve:
    """The losses of one run."""

    world_size: int
    micro_batch: int
    losses: tuple[float, ...]


def curves(root: Path) -> list[Curve]:
    """One curve for each cut."""
    finished_store(root)
    return [_curve(root, world_size, micro_batch) for world_size, micro_batch in CUTS]


def distances(found: list[Curve]) -> list[float]:
    """Largest difference of each curve from the first at any step."""
    first = np.array(found[0].losses)
    return [float(np.abs(np.array(curve.losses) - first).max()) for curve in found]


def _curve(root: Path, world_size: int, micro_batch: int) -> Curve:
    train = {
        "images": STEPS * BATCH, "micro_batch": micro_batch, "log_images": BATCH,
        "checkpoint_images": STEPS * BATCH,
    }  # fmt: skip
    config = tiny_config(f"cut-{world_size}-{micro_batch}", train=train, validation=None)
    gang = Gang(root, config, world_size)
    assert exit_codes(gang) == [0] * world_size, gang.notes
    table = pq.read_table(root / "denoisers" / config.name / config.version / "metrics.parquet")
    return Curve(world_size, micro_batch, tuple(table["loss"].to_pylist()))


def main() -> int:
    """Prints the distances; 1 if a curve is too far away."""
    with tempfile.TemporaryDirectory(prefix="split-curves-") as folder:
        found = curves(Path(folder))
    print("| ranks | micro-batch | steps | last loss | max difference from the first |")
    print("|---|---|---|---|---|")
    for curve, distance in zip(found, distances(found), strict=True):
        print(
            f"| {curve.world_size} | {curve.micro_batch} | {len(curve.losses)}"
            f" | {curve.losses[-1]:.6f} | {distance:.1e} |"
        )
    return int(max(distances(found)) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
