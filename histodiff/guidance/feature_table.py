"""Features of labelled latents at every noise level, taken once: the denoiser is frozen.

A level's features are kept beside the guide while it is trained, so that a run that was interrupted
does not take them anew. Legend: N latents, R draws of them, D features.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from histodiff.guidance.crossfit import Bins
from histodiff.guidance.labelled import LabelledLatents, bin_sigma, noisy_batch
from histodiff.models.feature_head import DenoiserFeatures
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureTable:
    """Noisy draws of latents as the denoiser sees them, level by level."""

    features: tuple[Floats, ...]
    """Of each level: (R, D)."""
    patch_R: npt.NDArray[np.int64]
    """Number of the patch that each draw is of."""
    target_R: npt.NDArray[np.int64]
    columns: dict[str, slice]
    """Where each layer's features are."""

    def part(self, latents: LabelledLatents) -> "FeatureTable":
        """The draws of these latents."""
        kept = np.flatnonzero(np.isin(self.patch_R, latents.patch_N))
        return replace(
            self,
            features=tuple(each[kept] for each in self.features),
            patch_R=self.patch_R[kept],
            target_R=self.target_R[kept],
        )

    def of_layers(self, level: int, layers: Sequence[str]) -> Floats:
        """Features of some layers at a level, in the order of ``layers``."""
        return np.concatenate([self.features[level][:, self.columns[name]] for name in layers], 1)


@torch.no_grad()
def feature_table(
    features: DenoiserFeatures,
    latents: LabelledLatents,
    *,
    bins: Bins,
    draws: int,
    symmetries: bool,
    batch: int,
    seed: int,
    device: str,
    path: StoragePath,
    label: str = "features",
) -> FeatureTable:
    """Features of ``draws`` noisy draws of every latent in every bin of noise levels.

    Args:
        features: Reads them off the denoiser.
        latents: Labelled latents.
        bins: Bins of noise levels; a level each.
        draws: Draws of each latent at each level.
        symmetries: Whether each draw is turned or flipped at random.
        batch: Latents of one forward pass.
        seed: Decides noise and symmetries.
        device: Where the denoiser is.
        path: Folder where finished levels are kept.
        label: First part of the names of their files.
    """
    rows = list(range(len(latents))) * draws
    taken = []
    with progress("features", total=len(bins) * len(rows), unit="latents") as bar:
        for place, each in enumerate(bins):
            kept = path / f"{label}-{place}.npy"
            found = _kept(kept)
            if found is None:
                parts = []
                for start in range(0, len(rows), batch):
                    indices = range(start, min(start + batch, len(rows)))
                    noisy = noisy_batch(
                        latents, [rows[index] for index in indices], sigma_of=bin_sigma(*each),
                        seed=seed, purpose=f"guide-features-{place}", indices=indices,
                        symmetries=symmetries, device=device,
                    )  # fmt: skip
                    parts.append(features(noisy.noisy_BCHW, noisy.sigma_B).cpu().numpy())
                    bar.advance(len(indices))
                found = np.concatenate(parts)
                _keep(kept, found)
            taken.append(found)
    return FeatureTable(
        tuple(taken), latents.patch_N[rows], latents.target_N[rows], features.columns
    )


def _kept(path: StoragePath) -> Floats | None:
    try:
        found: Floats = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except FileNotFoundError:
        return None
    return found


def _keep(path: StoragePath, features: Floats) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    write_bytes(path, buffer.getvalue())
