"""fetch: sample data into a folder. So far: `generated`, slides and labelled patches drawn here."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from histodiff.config import Config
from histodiff.data_prep.generated import (
    MAX_PATCHES_PER_SLIDE,
    write_generated_slides,
    write_labelled_patches,
)
from histodiff.errors import ConfigError

Dataset = Literal["generated"]
DATASETS: tuple[str, ...] = ("generated",)


class GeneratedSize(Config):
    """How much is generated."""

    slides: int = Field(default=6, ge=1, le=10_000)
    """Unlabelled slides."""
    size_px: int = Field(default=4096, ge=1024, le=16_384)
    """Side of a slide in pixels at 0.5 um/px."""
    slides_per_class: int = Field(default=8, ge=1, le=1000)
    """Labelled slides whose main class is the same."""
    patches_per_slide: int = Field(default=24, ge=1, le=MAX_PATCHES_PER_SLIDE)
    """Labelled patches per slide."""
    patch_px: int = Field(default=32, ge=32, le=256)
    """Side of a labelled patch in pixels at 0.5 um/px."""
    seed: int = 0
    """Seed of everything."""


def fetch(dataset: str, folder: Path, *, size: GeneratedSize | None = None) -> list[Path]:
    """Writes a data set below ``folder`` and returns what a user reads next.

    ``generated`` writes ``slides/*.svs`` and ``labelled/patches.csv`` with its images. What is
    there already from the same settings stays, so that an interrupted call goes on.

    Raises:
        ConfigError: There is no such data set, the folder cannot be written, or it holds slides
            that were generated with other settings.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"'{dataset}': no such data set; choose one of {', '.join(DATASETS)}")
    size = size or GeneratedSize()
    try:
        _claim(folder, size)
        return _generated(folder, size)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error}); choose another folder"
        ) from error


def _claim(folder: Path, size: GeneratedSize) -> None:
    """Notes the settings in the folder, or checks that they are those of the files there."""
    settings = size.model_dump_json(indent=2) + "\n"
    note = folder / "generated.json"
    if note.exists() and note.read_text(encoding="utf-8") != settings:
        raise ConfigError(f"{folder}: holds slides generated with other settings; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(settings, encoding="utf-8")


def _generated(folder: Path, size: GeneratedSize) -> list[Path]:
    slides = write_generated_slides(
        folder / "slides", count=size.slides, seed=size.seed, size_px=size.size_px
    )
    labelled = folder / "labelled" / "patches.csv"
    if not labelled.exists():
        write_labelled_patches(
            labelled.parent,
            slides_per_class=size.slides_per_class,
            patches_per_slide=size.patches_per_slide,
            seed=size.seed,
            patch_px=size.patch_px,
        )
    return [slides[0].parent, labelled]
