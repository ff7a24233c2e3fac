"""What the equivariance of an autoencoder means for pre-training, in a sentence."""

from collections.abc import Mapping
from typing import Any

from histodiff.runtime.symmetries import GROUPS, NAMES, Symmetries

HARMLESS_DB = 0.5
"""Loss of PSNR up to which a group is called harmless; patches differ by far more."""


def advice_on_symmetries(turned: Mapping[str, Any]) -> str:
    """What the measured errors say about `symmetries` of pre-training.

    Args:
        turned: ``equivariance`` in the manifest of an autoencoder.
    """
    flips, turns = _lost_db(turned, "flips"), _lost_db(turned, "flips_and_turns")
    told = (
        f"Flipped latents decode up to {flips:.1f} dB worse than latents as they are, flipped and"
        f" turned ones up to {turns:.1f} dB."
    )
    if turns <= HARMLESS_DB:
        return f"{told} The denoiser may be trained with `symmetries: flips_and_turns`."
    if flips <= HARMLESS_DB:
        return f"{told} The denoiser may be trained with `symmetries: flips`, and no turns."
    return f"{told} The denoiser should see neither: `symmetries: none`."


def _lost_db(turned: Mapping[str, Any], group: Symmetries) -> float:
    """The largest loss of PSNR under a member of the group."""
    names = {NAMES[which] for which in GROUPS[group]}
    rows = [row for row in turned["symmetries"] if row["symmetry"] in names]
    worst = min(float(row["psnr_to_pixels_db"]) for row in rows)
    return max(0.0, float(turned["psnr_db"]) - worst)
