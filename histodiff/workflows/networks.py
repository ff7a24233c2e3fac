"""Networks of finished artifacts, and cheap checks that artifacts fit each other.

The checks read manifests and descriptions only, so that a mistake is told before anything is
planned or any weights are loaded.
"""

import json
import logging
from collections.abc import Mapping

from pydantic import TypeAdapter

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.cluster.site import Site
from histodiff.diffusion import ObjectiveConfig, create_preconditioning
from histodiff.errors import ArtifactError, ArtifactNotFound, ConfigError
from histodiff.latents import Whitening
from histodiff.models.autoencoder import Autoencoder, load_autoencoder
from histodiff.models.denoiser import LAST, SNAPSHOTS, LoadedDenoiser, load_denoiser
from histodiff.models.published_scaling import published_latents
from histodiff.models.weights import DESCRIPTION
from histodiff.storage import StoragePath, list_names

ENCODER_SHA256 = "encoder_sha256"
"""Key of the encoder's digest in the contents of manifests."""
_MEASURED = "use scaling: {type: power, power: 1.0}, which measures the latents"
_Objective: TypeAdapter[ObjectiveConfig] = TypeAdapter(ObjectiveConfig)
SYMMETRIES = "symmetries"
"""Key, in the contents of autoencoders and stores, of what turning the tissue does to channels."""
_log = logging.getLogger(__name__)


def open_denoiser(artifact: Artifact, *, device: str, snapshot: str = LAST) -> LoadedDenoiser:
    """The denoiser of an EMA snapshot.

    Raises:
        ConfigError: The artifact has no snapshot of that name.
    """
    require_snapshot(artifact, snapshot)
    return load_denoiser(snapshot_path(artifact.path, snapshot), device=device)


def snapshot_path(path: StoragePath, name: str = LAST) -> StoragePath:
    """Where an EMA snapshot of the Denoiser at ``path`` lies."""
    return path / SNAPSHOTS / name


def require_snapshot(denoiser: Artifact, name: str) -> None:
    """Checks that a denoiser has an EMA snapshot.

    Raises:
        ConfigError: It has none of that name.
    """
    names = sorted(list_names(denoiser.path / SNAPSHOTS))
    if name not in names:
        raise ConfigError(
            f"snapshot {name}: {denoiser.reference} has none of that name; it has"
            f" {', '.join(names)}"
        )


def open_autoencoder(artifact: Artifact, *, device: str) -> Autoencoder:
    """The autoencoder of an artifact."""
    return load_autoencoder(artifact.path, device=device)


def require_same_encoder(first: Artifact, second: Artifact) -> None:
    """Checks that two artifacts belong to one encoder.

    Raises:
        ArtifactError: They do not; latents of one mean nothing to the other.
    """
    digests = [artifact.manifest.contents.get(ENCODER_SHA256) for artifact in (first, second)]
    if digests[0] is None or digests[0] != digests[1]:
        shown = [str(digest)[:12] for digest in digests]
        raise ArtifactError(
            f"{first.reference} belongs to encoder {shown[0]}, {second.reference} to {shown[1]};"
            " use artifacts made with one autoencoder"
        )


def require_patch_px(patch_px: int, denoiser: Artifact, *, owner: str) -> None:
    """Checks that ``owner`` has patches of the size that the denoiser draws.

    Raises:
        ConfigError: It has another size.
    """
    wanted = drawn_px(denoiser)
    if patch_px != wanted:
        raise ConfigError(
            f"{owner} has patches of {patch_px} px, {denoiser.reference} draws {wanted} px; tile"
            f" and encode with patch_px: {wanted}"
        )


def known_noise(denoiser: Artifact, *, snapshot: str = LAST) -> tuple[float, float]:
    """Lowest and highest noise level that a denoiser was trained on."""
    description = json.loads((snapshot_path(denoiser.path, snapshot) / DESCRIPTION).read_bytes())
    scales = create_preconditioning(_Objective.validate_python(description["config"]["objective"]))
    return scales.sigma_min, scales.sigma_max


def drawn_px(denoiser: Artifact) -> int:
    """Side in pixels of what a denoiser draws."""
    description = json.loads((snapshot_path(denoiser.path) / DESCRIPTION).read_bytes())
    return int(description["info"]["patch_px"])


def preview_autoencoder(stores: Mapping[str, Artifact], site: Site) -> str | None:
    """Where the autoencoder of the latents lies, for pictures of samples; None where it does not.

    Says in the log what would be needed.

    Args:
        stores: Latent stores of one encoder.
        site: Its root is where autoencoders are looked up.
    """
    first = next(iter(stores.values()))
    found = _autoencoder_of(first, site)
    if found is not None:
        return str(found.path)
    _log.warning(
        "previews show latents, not pictures: the autoencoder of %s (%s) is not in %s",
        first.reference, ", ".join(_autoencoder_names(first)) or "not recorded", site.root,
    )  # fmt: skip
    return None


def published_whitening(stores: Mapping[str, Artifact], site: Site) -> Whitening:
    """Mean and scale that were published with the autoencoder of the latents.

    Args:
        stores: Latent stores of one encoder.
        site: Its root is where autoencoders are looked up.

    Raises:
        ConfigError: The autoencoder is not there, or was published without them.
    """
    first = next(iter(stores.values()))
    found = _autoencoder_of(first, site)
    if found is None:
        raise ConfigError(
            f"scaling.type=published: the autoencoder of {first.reference}"
            f" ({', '.join(_autoencoder_names(first)) or 'not recorded'}) is not in {site.root};"
            f" {_MEASURED}"
        )
    published = published_latents(found.path)
    if published is None:
        raise ConfigError(
            f"scaling.type=published: {found.reference} has no scaling_factor or latents_std of"
            f" its own; {_MEASURED}"
        )
    return Whitening(published.mean, published.scale)


def _autoencoder_of(store: Artifact, site: Site) -> Artifact | None:
    """The autoencoder that encoded a latent store, if the root has it."""
    for name in _autoencoder_names(store):
        try:
            found = open_artifact(site.storage_root, Reference(name))
        except ArtifactNotFound:
            continue
        if found.manifest.contents.get(ENCODER_SHA256) == store.manifest.contents[ENCODER_SHA256]:
            return found
    return None


def _autoencoder_names(store: Artifact) -> list[str]:
    return [name for name in store.manifest.inputs if name.startswith(f"{Kind.AUTOENCODERS}/")]
