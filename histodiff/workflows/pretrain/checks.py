"""What must hold before a training is begun.

What was begun wrongly could only be mended under another version.
"""

from collections.abc import Mapping

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Ranks, Site, possible_ranks
from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents import PowerScaling, PublishedScaling, Whitening
from histodiff.workflows.networks import (
    ENCODER_SHA256,
    SYMMETRIES,
    published_whitening,
    require_same_encoder,
    require_snapshot,
)
from histodiff.workflows.pretrain.config import TARGET, PretrainConfig

_ALIKE = {
    ENCODER_SHA256: "encode with one encoder",
    "patch_px": "a mixture needs one patch size",
    "mpp": "a mixture needs one scale",
    SYMMETRIES: "encode those that have none under a new version",
}
"""What all stores of a mixture must have in common, and what to do."""


def require_stores_of_one_kind(stores: Mapping[str, Artifact]) -> None:
    """Checks that stores may be mixed.

    Raises:
        ArtifactError: They have different encoders, sizes of patches, scales or symmetries.
    """
    for key, fix in _ALIKE.items():
        found = {
            str(artifact.reference): str(artifact.manifest.contents.get(key))
            for artifact in stores.values()
        }
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} has {value[:12]}" for name, value in found.items())
            raise ArtifactError(f"stores: of different {key} ({listed}); {fix}")


def require_fitting_ranks(config: PretrainConfig, ranks: Ranks) -> None:
    """Checks that any number of ranks that there may be divides batch and lanes.

    Raises:
        ConfigError: One does not.
    """
    for number in possible_ranks(ranks):
        config.train.micro_batch_of(number)
        if config.num_lanes % number:
            raise ConfigError(
                f"num_lanes={config.num_lanes} must be a multiple of the site's ranks={number};"
                " change the ranks"
            )


def require_target(config: PretrainConfig, inputs: Mapping[str, Artifact]) -> None:
    """Checks that the denoiser that is aligned with is of these latents, and has the snapshot.

    Raises:
        ArtifactError: It belongs to another encoder.
        ConfigError: It has no such snapshot.
    """
    if config.alignment is None:
        return
    target = inputs[TARGET]
    require_same_encoder(next(iter(inputs.values())), target)
    require_snapshot(target, config.alignment.target.snapshot)


def wanted_whitening(
    config: PretrainConfig, stores: Mapping[str, Artifact], site: Site
) -> Whitening | None:
    """The whitening that was published, if the config wants that one; None has it measured.

    Raises:
        ConfigError: There is none that was published.
    """
    match config.scaling:
        case PowerScaling():
            return None
        case PublishedScaling():
            return published_whitening(stores, site)
