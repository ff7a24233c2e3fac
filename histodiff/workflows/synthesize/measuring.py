"""How good the samples are: the block ``quality`` of a config, opened and measured."""

from collections.abc import Mapping

from histodiff.artifacts import Artifact
from histodiff.samples import SampleStore
from histodiff.storage import StoragePath
from histodiff.workflows.networks import drawn_px
from histodiff.workflows.quality.judging import Drawn
from histodiff.workflows.quality.measuring import Measured, Sources, measure_store, open_sources
from histodiff.workflows.synthesize.config import QUALITY, SynthesizeConfig
from histodiff.workflows.synthesize.store import drawn_classes


def opened_sources(
    config: SynthesizeConfig,
    inputs: Mapping[str, Artifact],
    labels_sha256: str | None,
    *,
    root: StoragePath,
) -> Sources | None:
    """What the samples will be measured with; None where nothing is measured."""
    if config.quality is None:
        return None
    drawn = Drawn(drawn_px(inputs["denoiser"]), drawn_classes(inputs), labels_sha256)
    return open_sources(config.quality, _of_quality(inputs), drawn, root=root, seed=config.seed)


def measured_samples(
    config: SynthesizeConfig,
    path: StoragePath,
    inputs: Mapping[str, Artifact],
    sources: Sources | None,
    *,
    device: str,
) -> Measured:
    """What the finished store at ``path`` is worth; nothing where nothing is measured."""
    if config.quality is None or sources is None:
        return Measured({}, ())
    return measure_store(
        config.quality, _of_quality(inputs), SampleStore.open(path), sources,
        path=path, seed=config.seed, device=device,
    )  # fmt: skip


def _of_quality(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Inputs of the block ``quality``, by their key below it."""
    return {
        key.removeprefix(QUALITY): artifact
        for key, artifact in inputs.items()
        if key.startswith(QUALITY)
    }
