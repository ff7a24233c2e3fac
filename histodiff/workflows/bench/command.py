"""``bench``: measured numbers against the limit of the machine.

The workloads are fixed by the design, so that nobody can choose an easy one. A bench is listed here
from the day that it measures its whole workload, and not before.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from histodiff.errors import ConfigError
from histodiff.workflows.bench.encode import bench_encode
from histodiff.workflows.bench.loader import bench_loader
from histodiff.workflows.bench.sample import bench_sample
from histodiff.workflows.bench.tile import bench_tile
from histodiff.workflows.bench.train import bench_train

BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "encode": bench_encode,
    "loader": bench_loader,
    "sample": bench_sample,
    "tile": bench_tile,
    "train": bench_train,
}
"""Benches by name; each returns one JSON-ready object with raw timings, versions and hardware."""


def bench(name: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """Runs one bench.

    Args:
        name: Which one.
        options: ``key=value``: ``slide=PATH`` for ``tile``, ``patches=`` for ``encode``;
            ``peers=PYTHON``, ``s3=URL``, ``folder=PATH`` and sizes for ``loader``; ``preset=``,
            ``device=`` and sizes for ``train`` and ``sample``; ``peers=PYTHON`` for ``train``.

    Raises:
        ConfigError: There is none of that name, or no such option; lists those there are.
    """
    if name not in BENCHES:
        raise ConfigError(f"bench '{name}': unknown; available: {', '.join(sorted(BENCHES))}")
    known = list(signature(BENCHES[name]).parameters)
    values = dict(option.partition("=")[::2] for option in options)
    for key, value in values.items():
        if key not in known or not value:
            raise ConfigError(
                f"bench {name}: '{key}' is no option; write one of {known} as key=value"
            )
    return BENCHES[name](**values)
