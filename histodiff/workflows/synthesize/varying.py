"""What samples vary: labelled latents, and the stains that they are given."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact
from histodiff.guidance.labelled import LabelledLatents, read_labelled
from histodiff.latents import LatentStore, Whitening
from histodiff.models.denoiser import LoadedDenoiser
from histodiff.synthesis.stains import (
    ChannelMoments,
    Stains,
    donor_rows,
    patch_statistics,
    rows_of_slides,
    slide_statistics,
)
from histodiff.synthesis.variation import Variation
from histodiff.workflows.labels import labels_of_store, opened_store
from histodiff.workflows.synthesize.config import STAINS, VARIED, StainsConfig, SynthesizeConfig


def variation(
    config: SynthesizeConfig, inputs: Mapping[str, Artifact], denoiser: LoadedDenoiser
) -> Variation | None:
    """What the samples of a config vary; None where they start from noise."""
    varied = config.variation
    if varied is None:
        return None
    store = opened_store(inputs[VARIED], dev_split=varied.dev_split, seed=config.seed)
    labels = labels_of_store(store, budget=varied.budget, seed=config.seed)
    whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
    latents = read_labelled(
        store, labels.rows, whitening=whitening, classes=store.classes, view=denoiser.info.view
    )
    stains = None
    if varied.stains is not None:
        donors = inputs[STAINS]
        stains = _stains(varied.stains, donors, store, latents, denoiser, seed=config.seed)
    return Variation(
        latents.mean_NCHW, latents.std_NCHW, latents.target_N, latents.patch_N,
        tuple(varied.sigmas), stains,
    )  # fmt: skip


def stain_rows(
    config: StainsConfig, donors: Artifact, *, seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of the slides that give their stain, by slide.

    Raises:
        ConfigError: There is no such slide.
    """
    return donor_rows(
        LatentStore.open(donors.path), splits=config.splits, num_slides=config.num_slides,
        rows_per_slide=config.rows_per_slide, min_rows=config.min_rows, seed=seed,
    )  # fmt: skip


def _stains(
    config: StainsConfig,
    donors: Artifact,
    store: LatentStore,
    latents: LabelledLatents,
    denoiser: LoadedDenoiser,
    *,
    seed: int,
) -> Stains:
    whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
    view = denoiser.info.view
    slide_of = dict(
        zip(store.rows["patch"].to_pylist(), store.rows["slide_id"].to_pylist(), strict=True)
    )
    own_slides = tuple(str(slide_of[patch]) for patch in latents.patch_N.tolist())
    if config.replaced == "patch":
        own = patch_statistics(latents.mean_NCHW, latents.std_NCHW)
    else:
        rows = rows_of_slides(store, own_slides, rows_per_slide=config.rows_per_slide)
        found = slide_statistics(store, rows, whitening=whitening, view=view)
        place = {slide: number for number, slide in enumerate(rows)}
        places = [place[slide] for slide in own_slides]
        own = ChannelMoments(found.mean[places], found.std[places])
    given = stain_rows(config, donors, seed=seed)
    return Stains(
        slides=tuple(given),
        given=slide_statistics(
            LatentStore.open(donors.path), given, whitening=whitening, view=view
        ),
        own_slide_N=own_slides,
        own=own,
        share=config.share,
    )
