"""A cohort of a thousand slides and a million patches, written in seconds, and what ``tile`` makes
of it: time, memory, size.

``python -m tests.support.large_cohort`` runs it and prints. A slide here is a small file that says
it is large: all tiles of a level point to a few tiles' bytes. So a thousand of them cost no disk,
and reading one costs as much as reading a slide of that size.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
import tifffile

from histodiff.cluster.site import LocalRay, NoRay, Site
from histodiff.data_prep.generated import render_slide
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.storage import file_sizes, storage_path
from histodiff.workflows.tile import TileConfig, tile
from tests.support.remote_slides import tile_config

SIDE_PX = 16_384
COARSE = 64
_TILE_PX = 256
_MIB = 2**20


@dataclass(frozen=True)
class Run:
    """What one run of ``tile`` took."""

    slides: int
    patches: int
    seconds: float
    driver_mib: float
    worker_mib: float
    content_sha256: str

    def __str__(self) -> str:
        return (
            f"{self.slides} slides, {self.patches} patches, {self.seconds:.1f} s,"
            f" {self.patches / self.seconds:.0f} patches/s, peak of the driver"
            f" {self.driver_mib:.0f} MiB, of a worker {self.worker_mib:.0f} MiB,"
            f" content {self.content_sha256[:12]}"
        )


def write_cohort(folder: Path, *, slides: int) -> None:
    """Slides of 16,384 px with one coarse level; each has a few bytes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    template = _template(folder / "template.part")
    for number in range(slides):
        unlike = hashlib.sha256(str(number).encode()).digest()
        (folder / f"slide-{number:05d}.svs").write_bytes(template + unlike)


def _template(scratch: Path) -> bytes:
    """The bytes of a slide whose fine tiles are all the same tile."""
    coarse = render_slide(0, 0, size_px=SIDE_PX // COARSE)
    noise = np.random.default_rng(0).integers(-20, 20, (_TILE_PX, _TILE_PX, 3))
    middle = coarse[:_TILE_PX, :_TILE_PX]
    fine_tile = _jpeg(np.clip(middle + noise, 0, 255).astype(np.uint8))
    across = coarse.shape[0] // _TILE_PX
    blocks = coarse.reshape(across, _TILE_PX, across, _TILE_PX, 3).swapaxes(1, 2)
    coarse_tiles = [_jpeg(block) for block in blocks.reshape(-1, _TILE_PX, _TILE_PX, 3)]
    with tifffile.TiffWriter(scratch, bigtiff=False) as tiff:
        number = (SIDE_PX // _TILE_PX) ** 2
        _write(tiff, [fine_tile] + [fine_tile[:4]] * (number - 1), SIDE_PX)
        _write(tiff, coarse_tiles, SIDE_PX // COARSE)
    _share_first_tile(scratch, len(fine_tile))
    data = scratch.read_bytes()
    scratch.unlink()
    return data


def _jpeg(pixels: Any) -> bytes:
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=80, colorsubsampling="420")
    )


def _write(tiff: tifffile.TiffWriter, tiles: list[bytes], side_px: int) -> None:
    description = (
        f"Aperio Image Library test\r\n{SIDE_PX}x{SIDE_PX} [0,0 {SIDE_PX}x{SIDE_PX}]"
        f" ({_TILE_PX}x{_TILE_PX}) -> {side_px}x{side_px} JPEG/YCC Q=80|AppMag = 40|MPP = 0.25"
    )
    tiff.write(
        iter(tiles), shape=(side_px, side_px, 3), dtype=np.uint8, tile=(_TILE_PX, _TILE_PX),
        photometric="ycbcr", compression="jpeg", subsampling=(2, 2), description=description,
        metadata=None, subfiletype=0 if side_px == SIDE_PX else 1,
    )  # fmt: skip


def _share_first_tile(path: Path, size: int) -> None:
    """Points all tiles of the first level to the first."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        offsets = tags["TileOffsets"].value
        tags["TileOffsets"].overwrite([offsets[0]] * len(offsets))
        tags["TileByteCounts"].overwrite([size] * len(offsets))


def cohort_config(folder: Path) -> TileConfig:
    """All 1,024 patches of 256 px at 0.5 um/px of each slide, whatever is on them."""
    quality = {"max_pen_fraction": 1.0, "max_black_fraction": 1.0, "max_white_fraction": 1.0}
    tissue = {"min_fraction": 0.0, "mask_mpp": 16.0, "min_object_um2": 0, "max_hole_um2": 0}
    return tile_config(str(folder), mpp=0.5, patch_px=256, tissue=tissue, quality=quality)


def run_tile(folder: Path, root: Path, *, workers: int) -> Run:
    """Tiles the cohort in this process, or on a local Ray with so many workers."""
    ray = LocalRay(type="local", num_cpus=2) if workers > 1 else NoRay(type="none")
    site = Site(root=str(root), ray=ray, device="cpu", reader_workers=workers)
    started = time.monotonic()
    with _peak_of_workers() as peak:
        artifact = tile(cohort_config(folder), site)
    contents = artifact.manifest.contents
    return Run(
        slides=contents["slides"],
        patches=contents["patches"],
        seconds=time.monotonic() - started,
        driver_mib=_peak_mib(os.getpid()),
        worker_mib=max(peak, default=0.0),
        content_sha256=str(artifact.manifest.content_sha256),
    )


def run_alone(folder: Path, root: Path, *, workers: int) -> Run:
    """``run_tile`` in a new process, whose peak of memory is its own."""
    done = _started(folder, root, workers).communicate()[0]
    return Run(**json.loads(done.splitlines()[-1]))


def run_interrupted(folder: Path, root: Path, *, workers: int, after: int) -> int:
    """Starts ``run_tile``, kills it when so many slides are in the ledger; how many there are."""
    process = _started(folder, root, workers)
    ledger = root / "patches" / "patches" / "v1" / "ledger"
    while process.poll() is None and _done(ledger) < after:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    return _done(ledger)


def seconds_to_open(root: Path) -> float:
    """Seconds to open the PatchIndex."""
    started = time.monotonic()
    PatchIndex.open(storage_path(root / "patches" / "patches" / "v1"))
    return time.monotonic() - started


def mib_of_tables(root: Path) -> dict[str, float]:
    """Size on disk of every part of the index."""
    sizes: Counter[str] = Counter()
    for name, size in file_sizes(storage_path(root / "patches" / "patches" / "v1")).items():
        sizes[name.split("/")[0]] += size
    return {name: round(size / _MIB, 1) for name, size in sorted(sizes.items())}


def _started(folder: Path, root: Path, workers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.large_cohort", "tile", str(folder), str(root)]
    return subprocess.Popen(
        [*command, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _done(ledger: Path) -> int:
    return len(list(ledger.glob("*.json")))


@contextmanager
def _peak_of_workers() -> Iterator[list[float]]:
    """Peaks of the memory of Ray's workers, seen from time to time."""
    peaks: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
                    if "_WorkerHost" in " ".join(child.cmdline()):
                        peaks.append(_peak_mib(child.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def _peak_mib(pid: int) -> float:
    """Most memory that a process has had at once."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has just ended


def main() -> None:
    """Runs the cohorts and prints what they took; ``tile FOLDER ROOT WORKERS`` runs one."""
    if sys.argv[1:2] == ["tile"]:
        folder, root, workers = sys.argv[2:5]
        run = run_tile(Path(folder), Path(root), workers=int(workers))
        sys.stdout.write(json.dumps(asdict(run)) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="cohort-") as scratch:
        for slides in (250, 1000):
            _report(Path(scratch), slides)


def _report(scratch: Path, slides: int) -> None:
    folder = scratch / f"slides-{slides}"
    write_cohort(folder, slides=slides)
    for workers in (1, 2):
        root = scratch / f"runs-{slides}-{workers}"
        _say(f"{workers} worker: {run_alone(folder, root, workers=workers)}")
    _say(f"opened in {seconds_to_open(root):.2f} s; MiB: {mib_of_tables(root)}")
    broken = scratch / f"broken-{slides}"
    kept = run_interrupted(folder, broken, workers=1, after=slides // 2)
    _say(f"killed after {kept} slides, then: {run_alone(folder, broken, workers=1)}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
