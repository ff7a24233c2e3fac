"""``verify``: an artifact byte for byte against its manifest, and what its kind adds to that."""

from concurrent.futures import ThreadPoolExecutor

from histodiff.artifacts import Artifact, Kind
from histodiff.artifacts.artifact import published_names
from histodiff.cluster.site import Site
from histodiff.latents import store_problems
from histodiff.storage import sha256_of
from histodiff.telemetry import progress
from histodiff.workflows.inspect import find_artifact

_THREADS = 4


def verify(address: str, site: Site) -> list[str]:
    """One line per problem of the artifact at ``address``; empty when it is intact.

    Args:
        address: ``kind/name@version``, ``name@version`` where one kind has it, or a folder or URL.
        site: Its root is where addresses are looked up.

    Raises:
        ArtifactError: There is no finished artifact.
    """
    artifact = find_artifact(address, site)
    problems = _file_problems(artifact)
    if artifact.manifest.kind == Kind.LATENTS:
        problems += store_problems(artifact.path)
    return sorted(set(problems))


def _file_problems(artifact: Artifact) -> list[str]:
    present = set(published_names(artifact.path))
    listed = artifact.manifest.files
    problems = [f"{name}: missing" for name in listed if name not in present]
    problems += [f"{name}: is not in the manifest" for name in sorted(present - set(listed))]
    intact = [name for name in listed if name in present]
    with (
        progress("verify", total=len(intact), unit="files") as bar,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        digests = threads.map(lambda name: sha256_of(artifact.path / name), intact)
        for name, digest in zip(intact, digests, strict=True):
            bar.advance()
            if digest != listed[name]:
                problems.append(f"{name}: sha256 is not the one in the manifest")
    return problems
