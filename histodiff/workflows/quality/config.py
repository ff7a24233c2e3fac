"""What is measured of generated images, as a block of other commands' configs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import Kind, Reference
from histodiff.config import Config, Location
from histodiff.features.kinds import ExtractorConfig, extractor_inputs
from histodiff.runtime.symmetries import Symmetries

Split = Literal["train", "val", "test"]
JUDGE = "judge"
"""Key of its input of the block."""


class QualityConfig(Config):
    """Samples against real held-out patches, and against the patches that were trained on."""

    extractor: ExtractorConfig
    """Network whose features are compared: `timm`, `classifier`, `denoiser` or `random_features`.
    Figures of different extractors cannot be compared."""
    real: Annotated[Reference, Location()]
    """PatchIndex with real patches of the samples' size."""
    real_splits: tuple[Split, ...] = Field(default=("val", "test"), min_length=1)
    """Splits of it that no network was trained on."""
    real_images: int = Field(default=4000, ge=40)
    """Real patches at most, drawn by the seed; 2,000 give a floor of 1,000 against 1,000."""
    training: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes that the denoiser was trained on; copies of their patches of the split `train`
    are looked for. Empty looks for none."""
    training_images: int | None = Field(default=None, ge=100)
    """Training patches at most, drawn by the seed; null compares with all, and so finds all."""
    judge: Annotated[Reference | None, Location()] = None
    """Finished classifier of real patches that says which class a sample shows; null asks none. It
    should know more labels than the guide, of other slides, and never samples."""
    symmetries: Symmetries = "flips_and_turns"
    """Symmetries under which a copy counts as one; eight cost eight times the features of the
    samples and the real patches."""
    memorised_quantile: float = Field(default=0.01, ge=0, lt=1)
    """Share of real patches that may be as close to a training patch as what is flagged."""
    replicates: int = Field(default=100, ge=20)
    """Replicates of the bootstrap over slides and samples."""
    batch: int = Field(default=64, ge=1)
    """Images per forward pass of the extractor."""

    @model_validator(mode="after")
    def _held_out(self) -> "QualityConfig":
        known = {reference.as_kind(Kind.PATCHES) for reference in self.training}
        if "train" in self.real_splits and self.real.as_kind(Kind.PATCHES) in known:
            raise ValueError(
                f"real_splits has `train`, and training names {self.real} too; real patches must be"
                " held out: take `train` away"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        """Full addresses of what is read, by the key below the block."""
        training = {
            f"training.{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.training)
        }
        extractor = {
            f"extractor.{key}": address for key, address in extractor_inputs(self.extractor).items()
        }
        judge = {} if self.judge is None else {JUDGE: self.judge.as_kind(Kind.CLASSIFIERS)}
        return {"real": self.real.as_kind(Kind.PATCHES), **training, **extractor, **judge}
