"""Images that criteria look at, and their features: made once per extractor, however many ask.

Legend of suffixes: G symmetries, N images, D feature dimensions, H height, W width, C channels.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.classification.images import RealImages
from histodiff.errors import ConfigError
from histodiff.features.extractor import Extractor, extracted_features
from histodiff.features.kinds import DenoiserExtractor, ExtractorConfig
from histodiff.runtime.symmetries import Symmetries
from histodiff.samples import SampleStore
from histodiff.workflows.networks import open_denoiser
from histodiff.workflows.quality.extractors import open_extractor
from histodiff.workflows.quality.patches import PatchSource

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
_READ_AT_ONCE = 256


@dataclass
class HeldOutPatches:
    """Held-out patches, read when first asked for."""

    source: PatchSource
    _pixels: Pixels | None = None

    def pixels(self) -> Pixels:
        """Those that could be read, uint8 ``(N, H, W, C)``.

        Raises:
            ConfigError: None could be read.
        """
        if self._pixels is None:
            self._pixels = np.concatenate(list(self.source.blocks()))
        if not len(self._pixels):
            raise ConfigError(
                f"rule.held_out: no patch of {self.source.name} can be read; give the images back"
                " to where they were tiled from"
            )
        return self._pixels

    @property
    def failed(self) -> tuple[UnitIssue, ...]:
        """Patches that could not be read."""
        return tuple(self.source.failed)


@dataclass
class Pictures:
    """Samples, labelled patches and held-out patches, with features by extractor."""

    store: SampleStore
    labelled: RealImages
    held_out: HeldOutPatches | None
    batch: int
    device: str
    _extractors: dict[str, Extractor] = field(default_factory=dict)
    _features: dict[tuple[str, str, Symmetries], Features] = field(default_factory=dict)

    def of_samples(self, name: str, symmetries: Symmetries = "none") -> Features:
        """Features ``(G, N, D)`` of all samples by an opened extractor."""
        return self._made(name, "samples", symmetries, self.sample_blocks(), len(self.store))

    def of_labelled(self, name: str) -> Features:
        """Features ``(N, D)`` of the labelled patches."""
        pixels = self.labelled.images.pixels_NHWC
        found: Features = self._made(name, "labelled", "none", [pixels], len(pixels))[0]
        return found

    def of_held_out(self, name: str, symmetries: Symmetries = "none") -> Features:
        """Features ``(G, N, D)`` of the held-out patches."""
        assert self.held_out is not None
        pixels = self.held_out.pixels()
        return self._made(name, "held out", symmetries, [pixels], len(pixels))

    def of_source(self, name: str, source: PatchSource) -> Features:
        """Features ``(N, D)`` of the patches of a source that can be read; not kept."""
        found: Features = extracted_features(
            self._extractors[name], source.blocks(), total=len(source.rows), batch=self.batch
        )[0]
        return found

    def open(self, config: ExtractorConfig, inputs: Mapping[str, Artifact]) -> str:
        """Opens an extractor, if it is not open, and says under which name.

        Args:
            config: Which one.
            inputs: Its artifacts, by their key below the block that has the extractor.

        Raises:
            ConfigError: Weights are missing, another network's, or untrained.
        """
        name = config.model_dump_json()
        if name not in self._extractors:
            if isinstance(config, DenoiserExtractor):
                _require_trained(config, inputs["extractor.denoiser"])
            self._extractors[name] = open_extractor(config, inputs, device=self.device)
        return name

    def sample_blocks(self) -> Iterator[Pixels]:
        """Pixels of the samples, a few at a time."""
        for start in range(0, len(self.store), _READ_AT_ONCE):
            yield self.store.read_pixels(range(start, min(start + _READ_AT_ONCE, len(self.store))))

    def described(self) -> list[dict[str, str | int]]:
        """Which networks were looked through."""
        return [
            {
                "extractor": extractor.name,
                "extractor_sha256": extractor.weights_sha256,
                "extractor_input_px": extractor.input_px,
            }
            for extractor in self._extractors.values()
        ]

    def _made(
        self, name: str, what: str, symmetries: Symmetries, blocks: Iterable[Pixels], total: int
    ) -> Features:
        key = (name, what, symmetries)
        if key not in self._features:
            self._features[key] = extracted_features(
                self._extractors[name], blocks, total=total, batch=self.batch,
                symmetries=symmetries,
            )  # fmt: skip
        return self._features[key]


def _require_trained(config: DenoiserExtractor, denoiser: Artifact) -> None:
    loaded = open_denoiser(denoiser, device="cpu", snapshot=config.snapshot)
    if not loaded.info.images_seen:
        raise ConfigError(
            f"extractor.denoiser {denoiser.reference}, snapshot {config.snapshot}: has seen no"
            " image, and random weights judge nothing; train it, or name another extractor"
        )
