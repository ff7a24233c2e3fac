"""What there is to be tiled: slides, and images of patch sets, with ids, labels and sizes."""

from dataclasses import dataclass, field

from histodiff.data_prep.index.geometry import Fit
from histodiff.data_prep.sources.companions import Companion, Companions

MET_HERE = "met here"
"""Source of a trap that no publication states."""


@dataclass(frozen=True)
class SlideInput:
    """One slide to be tiled."""

    slide_id: str
    patient_id: str
    site: str | None
    label: str | None
    url: str
    size_bytes: int
    given_mpp: tuple[float, float] | None
    """Scale from the config or the scale CSV."""
    mpp_is_default: bool
    """Whether ``given_mpp`` stands back behind the slide's own scale."""
    mpp_from: str
    """Where ``given_mpp`` is from: ``config``, ``scale_csv`` or ``none``."""
    companions: Companions = field(default_factory=dict)
    """Mask, annotations and coordinates that were made for it."""
    min_coverage: float = 0.5
    """Least fraction of a patch that an annotation must cover to be its label."""
    levels: tuple[Companion, ...] = ()
    """Further files of the slide beside ``url``: levels of a DICOM series."""
    content_hash: str = ""
    version: str = ""
    """ETag or date of the remote file that was hashed; the run is held to it."""


@dataclass(frozen=True)
class ImageInput:
    """One image of a patch set."""

    path: str
    """Relative to the folder of the set; ``<file>#<index>`` for a patch in an array file."""
    slide_id: str
    patient_id: str
    site: str | None
    label: str | None
    size_bytes: int
    """Of a patch in an array file: its share of the file."""
    content_hash: str = ""
    """Of a patch in an array file: that of the file."""
    given_split: str | None = None
    """Split that the data set states, to be kept; None to be divided."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one patch set that are tiled as one unit."""

    name: str
    """Unique name of the unit."""
    url: str
    """Folder that the images' paths are relative to."""
    mpp: float | None
    fit: Fit
    images: tuple[ImageInput, ...]


@dataclass(frozen=True)
class FoundTrap:
    """A trap of one source, as manifest, cohort page and report repeat it."""

    data: str
    """Where the data lie, relative to the config's."""
    what: str
    """The trap in a sentence."""
    source: str
    """Who says so; `MET_HERE` for what this run met."""


@dataclass(frozen=True)
class Inputs:
    """Everything that is to be tiled."""

    slides: tuple[SlideInput, ...]
    image_sets: tuple[ImageSet, ...]
    traps: tuple[FoundTrap, ...] = ()
    """Known traps of the data, and those that were met here."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        images = sum(image.size_bytes for part in self.image_sets for image in part.images)
        levels = sum(item.size_bytes for slide in self.slides for item in slide.levels)
        return images + levels + sum(slide.size_bytes for slide in self.slides)
