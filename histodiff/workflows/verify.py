"""``verify``: an artifact byte for byte against its manifest, and what its kind adds to that.

Every object is read once. Of a latent store, shards are also looked into and compared with the
store's tables, and a sample of rows is encoded again.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

from histodiff.artifacts import Artifact, Kind
from histodiff.artifacts.artifact import PLAN, published_names, read_plan
from histodiff.cluster.site import Site
from histodiff.errors import ArtifactError
from histodiff.latents import LatentStore, listed_shards, shard_problems, table_problems
from histodiff.latents.layout import shard_name
from histodiff.storage import file_sizes, read_bytes, sha256_of
from histodiff.telemetry import progress
from histodiff.workflows.encode.reencode import reencoding_problems
from histodiff.workflows.inspect import find_artifact

REENCODED_ROWS = 8
_THREADS = 4
_MEMORY_BYTES = 2**30
_COPIES = 3  # of a shard that is looked into: its bytes, its rows, what is computed of them


def verify(address: str, site: Site, *, reencode: int = REENCODED_ROWS) -> list[str]:
    """One line per problem of the artifact at ``address``; empty when it is intact.

    Args:
        address: ``kind/name@version``, ``name@version`` where one kind has it, or a folder or URL.
        site: Its root is where addresses are looked up; its device encodes.
        reencode: Rows of a latent store that are encoded again; 0 for none.

    Raises:
        ArtifactError: There is no finished artifact.
    """
    artifact = find_artifact(address, site)
    problems = [*_plan_problems(artifact), *_listing_problems(artifact)]
    store: LatentStore | None = None
    if artifact.manifest.kind == Kind.LATENTS:
        try:
            store = LatentStore.open(artifact.path)
            problems += table_problems(store)
        except ArtifactError as error:
            problems.append(str(error))
    problems += _file_problems(artifact, store)
    if store is not None and reencode:
        problems += reencoding_problems(artifact, store, site, rows=reencode)
    return sorted(set(problems))


def _plan_problems(artifact: Artifact) -> Iterator[str]:
    plan = read_plan(artifact.path)
    if plan is None:
        yield f"{PLAN}: missing"
    elif plan["fingerprint"] != artifact.manifest.fingerprint:
        yield f"{PLAN}: plans another artifact than the one in the manifest"


def _listing_problems(artifact: Artifact) -> Iterator[str]:
    present, listed = set(published_names(artifact.path)), set(artifact.manifest.files)
    yield from (f"{name}: missing" for name in listed - present)
    yield from (f"{name}: is not in the manifest" for name in present - listed)


def _file_problems(artifact: Artifact, store: LatentStore | None) -> list[str]:
    """What is wrong with the bytes of files that are there, each read once."""
    sizes = file_sizes(artifact.path)
    names = [name for name in artifact.manifest.files if name in sizes]
    shards = {shard_name(shard): shard for shard in listed_shards(store)} if store else {}
    held = _COPIES * max([sizes[name] for name in names if name in shards], default=1)
    threads = max(1, min(_THREADS, _MEMORY_BYTES // held))
    check = partial(_one_file, artifact, store, shards)
    problems: list[str] = []
    with (
        progress("verify", total=len(names), unit="files") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for found in pool.map(check, names):
            problems += found
            bar.advance(problems=len(problems))
    return problems


def _one_file(
    artifact: Artifact, store: LatentStore | None, shards: dict[str, int], name: str
) -> list[str]:
    recorded, path = artifact.manifest.files[name], artifact.path / name
    changed = [f"{name}: sha256 is not the one in the manifest"]
    if store is None or name not in shards:
        return [] if sha256_of(path) == recorded else changed
    data = read_bytes(path)
    same = sha256(data).hexdigest() == recorded
    return [*([] if same else changed), *shard_problems(store, shards[name], data)]
