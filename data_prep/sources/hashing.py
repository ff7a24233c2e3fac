"""What slides and images contain, as digests: identity of inputs, wherever they lie.

Small files are hashed whole. Of a large slide 16 blocks, spread evenly with the first and the last,
and its size are hashed, so that planning does not read terabytes; the digest says which it is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import quote

from histodiff.artifacts import canonical_json
from histodiff.data_prep.readers.containers import member_of
from histodiff.data_prep.sources.inputs import ImageInput, ImageSet, Inputs, SlideInput
from histodiff.errors import ConfigError, FileChanged
from histodiff.storage import (
    FileFacts,
    StoragePath,
    cut_short,
    file_facts,
    is_local,
    read_ranges,
    sha256_of,
    storage_path,
)
from histodiff.telemetry import progress

WHOLE_BYTES = 64 * 2**20
_BLOCK_BYTES = 2**20
_NUM_BLOCKS = 16
_THREADS = 8


def content_hash(path: StoragePath, *, size_bytes: int, version: str = "") -> str:
    """``sha256:<hex>`` of the whole file, or ``sampled-sha256:<hex>`` above 64 MiB.

    Raises:
        FileChanged: It is shorter than ``size_bytes``, or has another version than ``version``.
    """
    if size_bytes <= WHOLE_BYTES:
        return f"sha256:{sha256_of(path, facts=FileFacts(size_bytes, version))}"
    digest = hashlib.sha256(str(size_bytes).encode())
    starts = [
        (size_bytes - _BLOCK_BYTES) * block // (_NUM_BLOCKS - 1) for block in range(_NUM_BLOCKS)
    ]
    wanted = [(start, _BLOCK_BYTES) for start in starts]
    for block in read_ranges(path, wanted, version=version):
        if len(block) != _BLOCK_BYTES:
            raise cut_short(str(path), _BLOCK_BYTES, len(block))
        digest.update(block)
    return f"sampled-sha256:{digest.hexdigest()}"


def with_hashes(inputs: Inputs) -> Inputs:
    """``inputs`` with the digest of every file; one that holds many patches is read once."""
    files: list[tuple[str, int | None]]
    files = []
    for slide in inputs.slides:
        files.append((slide.url, slide.size_bytes))
        files += [(item.url, item.size_bytes) for item in slide.companions.values()]
        files += [(item.url, item.size_bytes) for item in slide.levels]
    files += [_file_of(part, image) for part in inputs.image_sets for image in part.images]
    unique = list(dict.fromkeys(files))
    found = dict(zip(unique, _digests(unique), strict=True))
    digests = iter([found[file].digest for file in files])
    slides = tuple(
        replace(_with_digests(slide, digests), version=found[slide.url, slide.size_bytes].version)
        for slide in inputs.slides
    )
    sets = tuple(
        replace(
            part,
            images=tuple(replace(image, content_hash=next(digests)) for image in part.images),
        )
        for part in inputs.image_sets
    )
    return replace(inputs, slides=slides, image_sets=sets)


def _with_digests(slide: SlideInput, digests: Iterator[str]) -> SlideInput:
    """A slide with its own digests, which come next."""
    own = next(digests)
    companions = {
        kind: replace(item, content_hash=next(digests)) for kind, item in slide.companions.items()
    }
    levels = tuple(replace(item, content_hash=next(digests)) for item in slide.levels)
    if levels:  # whatever the files are called
        parts = [own, *sorted(item.content_hash for item in levels)]
        own = f"series-sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
    return replace(slide, content_hash=own, companions=companions, levels=levels)


def inventory(inputs: Inputs) -> dict[str, str]:
    """Identity of hashed inputs: digest, ids, label and given scale of each, without places."""
    known: dict[str, str] = {}
    for slide in inputs.slides:
        known[f"slide/{slide.slide_id}"] = canonical_json(
            [
                slide.content_hash,
                slide.patient_id,
                slide.site,
                slide.label,
                slide.given_mpp,
                {kind: item.content_hash for kind, item in slide.companions.items()},
            ]
        )
    for part in inputs.image_sets:
        for image in part.images:
            about = [image.content_hash, image.slide_id, image.patient_id, image.site, image.label]
            if image.given_split is not None and member_of(image.path) is None:
                about.append(image.given_split)  # from a list; those of array files are in the file
            known[f"{part.name}/{image.path}"] = canonical_json(about)
    return known


def _file_of(part: ImageSet, image: ImageInput) -> tuple[str, int | None]:
    """File that an image is in and its size, None where many images share it."""
    member = member_of(image.path)
    name, size = (image.path, image.size_bytes) if member is None else (member[0], None)
    is_web = part.url.startswith(("http://", "https://"))
    return f"{part.url.rstrip('/')}/{quote(name) if is_web else name}", size


@dataclass(frozen=True)
class _Hashed:
    """A file's digest, and the version that was hashed."""

    digest: str
    version: str


def _digests(files: Sequence[tuple[str, int | None]]) -> list[_Hashed]:
    with (
        progress("hash inputs", total=len(files), unit="files") as bar,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        found = []
        for digest in threads.map(lambda file: _hashed(*file), files):
            found.append(digest)
            bar.advance()
    return found


def _hashed(url: str, size_bytes: int | None) -> _Hashed:
    path = storage_path(url)
    try:
        facts = file_facts(path)
        if size_bytes is not None and facts.size != size_bytes:
            raise cut_short(url, size_bytes, facts.size)
        version = "" if is_local(path) else facts.version
        return _Hashed(content_hash(path, size_bytes=facts.size, version=version), version)
    except FileChanged as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{url}: cannot be read ({error}); check its permissions") from error
