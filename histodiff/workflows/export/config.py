"""Config of ``export``: where the folder goes, and what people decide about it."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from histodiff.artifacts import Reference
from histodiff.config import Config
from histodiff.models.denoiser import LAST

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def _license_id(text: str) -> str:
    if not _LICENSE.fullmatch(text):
        raise ValueError(
            f"'{text}' is no licence as the Hugging Face hub writes it, such as cc-by-4.0,"
            " apache-2.0 or other"
        )
    return text


class ExportConfig(Config):
    """What ``histodiff export`` takes behind the denoiser."""

    folder: str = Field(min_length=1)
    """Folder or URL that is written; empty, or an earlier export of the same."""
    license: Annotated[str, AfterValidator(_license_id)]
    """Licence under which the data allow what was trained on them, as the hub writes it."""
    autoencoder: Reference | None = None
    """Autoencoder that decodes; by default the one that made the denoiser's latents."""
    snapshot: str = LAST
    """Snapshot of the denoiser."""
    steps: int = Field(default=50, ge=1)
    """Steps of the pictures in the model card."""
    seed: int = 0
    """Seed of the noise of these pictures."""
