"""How a denoiser is trained, as typed config, and the DeepSpeed JSON that follows from it.

The clock is ``images_seen``. The global batch is what counts for results; how it is cut into ranks
and micro-batches follows from the world size and changes results by rounding only.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from histodiff.config import Config, Location
from histodiff.errors import ConfigError
from histodiff.training.rates import RateShape, rate_factor

Precision = Literal["fp32", "bf16"]


class AdamWConfig(Config):
    """AdamW."""

    type: Literal["adamw"]
    lr: float = Field(gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the moments."""
    eps: float = Field(default=1.0e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm; null does not clip."""


class RateConfig(Config):
    """Learning rate over ``images_seen``."""

    warmup_images: int = Field(ge=0)
    """Length of the linear warm-up in images."""
    shape: RateShape
    """What follows the warm-up: `constant`, or `cosine` to zero at the last image."""


class EmaConfig(Config):
    """Exponential moving average of the weights, in fp32."""

    half_life_images: float = Field(gt=0)
    """Images after which an old weight counts half."""
    rampup: float | None = Field(default=0.05, gt=0, le=1)
    """The half-life is at most this share of the images seen so far; null never shortens it."""


class TrainConfig(Config):
    """Everything about the optimization of a denoiser."""

    images: int = Field(ge=1)
    """Length of the training in images seen; rounded up to whole batches."""
    batch: int = Field(ge=1)
    """Images of one optimizer step, over all ranks."""
    micro_batch: Annotated[int, Location()] = Field(ge=1)
    """Most images of one forward pass on one rank; a question of memory."""
    optimizer: AdamWConfig
    """The optimizer."""
    rate: RateConfig
    """The learning rate over time."""
    ema: EmaConfig
    """The average that becomes the snapshot."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed partitions over the ranks: 1 optimizer, 2 gradients too, 3 weights too."""
    precision: Precision
    """Type of the matrix products; weights, gradients and optimizer are fp32."""
    log_images: int = Field(ge=1)
    """Every how many images a row of metrics is recorded."""
    checkpoint_images: Annotated[int, Location()] = Field(ge=1)
    """Every how many images a checkpoint is written."""
    keep_checkpoints: Annotated[int, Location()] = Field(default=2, ge=1)
    """How many checkpoints are kept."""

    @model_validator(mode="after")
    def _warmup_is_shorter(self) -> "TrainConfig":
        if self.rate.warmup_images > self.images:
            raise ValueError(
                f"rate.warmup_images={self.rate.warmup_images} is longer than"
                f" images={self.images}; shorten the warm-up"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return -(-self.images // self.batch)

    def is_due(self, step: int, every_images: int) -> bool:
        """Whether something done every so many images is due after ``step`` steps."""
        seen = step * self.batch
        return step == self.num_steps or seen // every_images > (seen - self.batch) // every_images

    def lr_at(self, images_seen: int) -> float:
        """Learning rate of the step that ends at ``images_seen``."""
        return self.optimizer.lr * rate_factor(
            images_seen,
            warmup=self.rate.warmup_images,
            total=self.num_steps * self.batch,
            shape=self.rate.shape,
        )

    def micro_batch_of(self, world_size: int) -> int:
        """Images of a forward pass: the largest divisor of a rank's share up to ``micro_batch``.

        Raises:
            ConfigError: The world size does not divide the batch.
        """
        if self.batch % world_size:
            raise ConfigError(
                f"train.batch={self.batch} must be a multiple of the world size {world_size};"
                " change the ranks of the site"
            )
        share = self.batch // world_size
        return max(n for n in range(1, min(share, self.micro_batch) + 1) if share % n == 0)


def deepspeed_config(train: TrainConfig, *, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON for ``train`` on ``world_size`` ranks.

    bf16 is torch's autocast around fp32 weights: one kind of master weights for every stage, and
    gradients are accumulated and reduced in fp32.
    """
    micro_batch = train.micro_batch_of(world_size)
    config: dict[str, Any] = {
        "train_batch_size": train.batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": train.batch // world_size // micro_batch,
        "zero_optimization": {"stage": train.zero_stage},
        "steps_per_print": 2**40,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": False,
    }
    if train.optimizer.clip is not None:
        config["gradient_clipping"] = train.optimizer.clip
    if train.precision == "bf16":
        config["torch_autocast"] = {
            "enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": [],
        }  # fmt: skip
    return config
