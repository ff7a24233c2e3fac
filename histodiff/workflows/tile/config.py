"""Config of ``tile``: what is tiled, at which scale, by which rules, and how it is split."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.config import Location
from histodiff.data_prep.index.geometry import Phase
from histodiff.data_prep.index.splits import (
    SplitConfig,
)
from histodiff.data_prep.readers.reader import Resample
from histodiff.data_prep.sources.any_source import DeclaredMpp
from histodiff.data_prep.sources.published_sets import BreakhisSource
from histodiff.data_prep.sources.sources import (
    PatchSetSource,
    SlidesSource,
    Source,
    unknown_scales,
)
from histodiff.data_prep.stages.duplicate_search import (
    DuplicateSearch,
)
from histodiff.data_prep.stages.slide_tiling import GeoJsonKind, TileRules
from histodiff.data_prep.tissue.quality import QualityConfig
from histodiff.data_prep.tissue.tissue_mask import TissueConfig


class TileConfig(CommandConfig):
    """Config of `tile`."""

    artifact_kind: ClassVar[Kind] = Kind.PATCHES

    data: Annotated[str, Location()] = "."
    """Folder or URL that the paths of the sources are relative to."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """What is tiled, all into one index."""
    mpp: DeclaredMpp
    """Microns per pixel of every patch. `unknown` is for patch sets alone."""
    patch_px: int = Field(ge=16, le=4096)
    """Side of a patch in pixels at `mpp`."""
    stride_px: int | None = Field(default=None, ge=1)
    """Distance of neighbouring patches of a slide in pixels at `mpp`; `patch_px` by default."""
    resample: Resample = "box"
    """Filter that shrinks what was read to `patch_px`."""
    allow_unknown_mpp: bool = False
    """Take patches of unknown or other scale than `mpp` into the mixture."""
    phase: Phase = "aligned"
    """Where the grid of a slide starts: `aligned` on the lattice of its own tiles where they allow
    it (faster to read), `origin` at the corner of what was scanned."""
    tissue: TissueConfig = TissueConfig()
    """Rules of the tissue mask of slides; patches of patch sets are all kept."""
    quality: QualityConfig = QualityConfig()
    """Which tissue of slides is left out."""
    geojson: tuple[GeoJsonKind, ...] = ("masks",)
    """What is written for QuPath into `geojson/`: `masks` of the tissue, and `patches` with their
    scores (large: 400 bytes for each)."""
    duplicates: DuplicateSearch = DuplicateSearch()
    """Which duplicates are looked for."""
    split: SplitConfig
    """Train, validation and test."""

    def inputs(self) -> dict[str, Reference]:
        return {}

    @model_validator(mode="after")
    def _scales_are_known_or_allowed(self) -> "TileConfig":
        unknown = unknown_scales(self.sources)
        if unknown and not self.allow_unknown_mpp:
            raise ValueError(
                f"sources.{unknown[0]}.mpp is unknown; give it, or set allow_unknown_mpp: true"
            )
        if self.mpp == "unknown":
            if not self.allow_unknown_mpp:
                raise ValueError("mpp is unknown; give it, or set allow_unknown_mpp: true")
            if any(isinstance(source, SlidesSource) for source in self.sources):
                raise ValueError(
                    "mpp is unknown, but slides are cut at a scale; give mpp, e.g. 0.5"
                )
        return self

    @model_validator(mode="after")
    def _a_published_test_is_the_only_one(self) -> "TileConfig":
        published = [
            number
            for number, source in enumerate(self.sources)
            if not isinstance(source, SlidesSource) and _has_published_test(source)
        ]
        if published and self.split.test:
            raise ValueError(
                f"split.test is {self.split.test:g}, but sources.{published[0]} has a published"
                " test; set split.test: 0"
            )
        return self

    @property
    def wanted_mpp(self) -> float | None:
        """The wanted scale, None for any."""
        return None if self.mpp == "unknown" else self.mpp

    @property
    def rules(self) -> TileRules:
        """What decides the patches of every unit."""
        return TileRules(
            mpp=self.wanted_mpp,
            patch_px=self.patch_px,
            stride_px=self.stride_px or self.patch_px,
            phase=self.phase,
            tissue=self.tissue,
            quality=self.quality,
            geojson=self.geojson,
            describe_images=self.duplicates.patches is not None,
            describe_slides=self.duplicates.slides is not None,
            allow_unknown_mpp=self.allow_unknown_mpp,
        )


def _has_published_test(source: PatchSetSource) -> bool:
    """Whether a published test is taken, beside which nothing else may be one."""
    if isinstance(source, BreakhisSource):
        return source.fold is not None or source.published_split == "test"
    return source.published_split == "test"
