"""How well reconstructions match their originals: PSNR, SSIM, and a picture to look at."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage.metrics import structural_similarity

_GAP_PX = 4
_CAPTION_PX = 16
_PERFECT_DB = 100.0

OWN_PICTURE = "reconstructions.png"
"""Name, in an autoencoder, of the picture of held-out patches of what it was trained on."""


@dataclass(frozen=True)
class ReconstructionQuality:
    """Means over patches."""

    psnr_db: float
    """Peak signal-to-noise ratio in dB; a perfect patch counts as 100."""
    ssim: float
    """Structural similarity (Wang et al. 2004), averaged over colours."""
    num_patches: int
    """Patches compared."""


def reconstruction_quality(
    originals_NHWC: npt.NDArray[np.uint8], reconstructions_NHWC: npt.NDArray[np.uint8]
) -> ReconstructionQuality:
    """Quality of uint8 reconstructions, patch by patch."""
    assert originals_NHWC.shape == reconstructions_NHWC.shape
    pairs = list(zip(originals_NHWC, reconstructions_NHWC, strict=True))
    return ReconstructionQuality(
        psnr_db=float(np.mean([psnr_db(original, other) for original, other in pairs])),
        ssim=float(np.mean([_ssim(original, other) for original, other in pairs])),
        num_patches=len(pairs),
    )


def psnr_db(original: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; 100 where they are equal."""
    error = np.mean((original.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error > 0 else _PERFECT_DB


def _ssim(original: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(
        structural_similarity(
            original, other, channel_axis=2, data_range=255,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip


def target_picture(reference: str) -> str:
    """Name of the picture of a target's reconstructions: ``patches/name@v1`` by ``name-v1``."""
    return f"reconstructions-{reference.rpartition('/')[2].replace('@', '-')}.png"


def comparison_picture(
    originals_NHWC: npt.NDArray[np.uint8],
    reconstructions_NHWC: npt.NDArray[np.uint8],
    *,
    columns: int = 8,
    captions: tuple[str, str] = ("original", "reconstruction"),
) -> bytes:
    """PNG with rows of originals, each with its reconstructions below it, at least 96 px a side."""
    count, side = originals_NHWC.shape[:2]
    zoom = max(1, -(-96 // side))
    cell = side * zoom + _GAP_PX
    across = min(columns, count)
    num_bands = -(-count // across)
    band = 2 * (cell + _CAPTION_PX)
    picture = Image.new("RGB", (across * cell + _GAP_PX, num_bands * band + _GAP_PX), "white")
    draw = ImageDraw.Draw(picture)
    for row, (caption, patches) in enumerate(
        zip(captions, (originals_NHWC, reconstructions_NHWC), strict=True)
    ):
        for number, patch in enumerate(patches):
            top = (number // across) * band + row * (cell + _CAPTION_PX)
            if number % across == 0:
                draw.text((_GAP_PX, top + 2), caption, fill="black")
            tile = Image.fromarray(patch).resize((side * zoom,) * 2, Image.Resampling.NEAREST)
            picture.paste(tile, (_GAP_PX + (number % across) * cell, top + _CAPTION_PX))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()
