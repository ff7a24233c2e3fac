"""DICOM slides: the files of one series are one slide.

Scanners write each level, the label and the overview as a file of its own. The largest level
stands for the slide and gives it its name; labels and the like are left out, with their count.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from histodiff.data_prep.readers.dicom import DICOM_SUFFIX, DicomHeader, dicom_header
from histodiff.errors import ConfigError, FileChanged, TransientError
from histodiff.storage import StoragePath

_LEVEL = "VOLUME"
_THREADS = 16


@dataclass(frozen=True)
class SlideFiles:
    """The files that are slides."""

    levels: Mapping[str, Sequence[str]]
    """File that stands for each slide -> its further levels, sorted; without any for most."""
    left_out: Sequence[str]
    """Lines that count what is no slide."""


def joined_series(paths: Mapping[str, StoragePath], *, where: str) -> SlideFiles:
    """Which of some files are slides, and which belong to those.

    Args:
        paths: Where each file lies, by its name below the source's folder.
        where: Config key of the folder, for errors.

    Raises:
        ConfigError: A header cannot be fetched.
    """
    headers = _headers({k: v for k, v in paths.items() if _is_dicom(k)}, where)
    series: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, header in headers.items():
        if header.kind == _LEVEL:
            series[PurePosixPath(name).parent.as_posix(), header.series].append(name)
    levels: dict[str, list[str]] = {name: [] for name in paths if name not in headers}
    for names in series.values():
        first = min(names, key=lambda name: (-headers[name].width * headers[name].height, name))
        levels[first] = sorted(name for name in names if name != first)
    others = Counter(header.kind.lower() for header in headers.values() if header.kind != _LEVEL)
    counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
    line = f"DICOM images that are no levels of a slide are left out ({others.total()}): {counts}"
    return SlideFiles(dict(sorted(levels.items())), [line] if others else [])


def _headers(paths: Mapping[str, StoragePath], where: str) -> dict[str, DicomHeader]:
    """Headers of the instances of slides; what is broken is left to who reads it."""
    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(dicom_header, paths.values()))
    except (TransientError, FileChanged) as error:
        raise ConfigError(f"{where}: {error}; check its address and the server") from error
    return {name: header for name, header in zip(paths, found, strict=True) if header is not None}


def _is_dicom(name: str) -> bool:
    return name.lower().endswith(DICOM_SUFFIX)
