"""How a model is trained, as typed config, and the DeepSpeed JSON for large ones.

The clock is ``images_seen``. The global batch is what counts for results; how it is cut into ranks
and micro-batches follows from the world size and changes results by rounding only.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from histodiff.config import Config, Location
from histodiff.errors import ConfigError
from histodiff.training.learning_rate import RateShape, rate_factor

Precision = Literal["fp32", "bf16", "fp16"]
_LARGEST_BUCKET = 500_000_000
"""Elements of gradient that are reduced at once; DeepSpeed's default."""


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
    """Decoupled weight decay, of matrices and kernels; norms, biases and embeddings have none."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm; null does not clip."""


class RateConfig(Config):
    """Learning rate over ``images_seen``."""

    warmup_images: int = Field(ge=0)
    """Length of the linear warm-up in images."""
    shape: RateShape
    """What follows the warm-up: `constant`, `cosine` to zero at the last image, or
    `inverse_sqrt`, which needs a warm-up and no end."""

    @model_validator(mode="after")
    def _inverse_sqrt_has_a_warmup(self) -> "RateConfig":
        if self.shape == "inverse_sqrt" and self.warmup_images == 0:
            raise ValueError(
                "shape=inverse_sqrt falls from the end of the warm-up on: set warmup_images > 0"
            )
        return self


class EmaConfig(Config):
    """Exponential moving averages of the weights, in fp32."""

    half_lives_images: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Images after which an old weight counts half; one average for each. The first becomes the
    snapshot `last`, the others `last-<half-life>`."""
    rampup: float | None = Field(default=0.05, gt=0, le=1)
    """The half-life is at most this share of the images seen so far; null never shortens it."""

    @model_validator(mode="after")
    def _half_lives_have_names(self) -> "EmaConfig":
        if len({f"{half_life:.0f}" for half_life in self.half_lives_images}) < len(
            self.half_lives_images
        ):
            raise ValueError(
                f"half_lives_images={list(self.half_lives_images)}: give different whole numbers,"
                " as snapshots are named by them"
            )
        return self


class DivergenceConfig(Config):
    """What happens when the loss or the gradient is not finite, or the loss leaps."""

    action: Literal["stop", "roll_back"] = "stop"
    """`stop` ends the run with an error. `roll_back` goes back to before the images named by
    `pass_over_images`, passes over them, and records it in `rollbacks.parquet`."""
    spike_factor: float | None = Field(default=None, gt=1)
    """A loss above this many medians of the last steps counts as well; null watches no leaps."""
    median_images: int = Field(default=65536, ge=1)
    """Images over which the median is taken; nothing is a leap before there are as many."""
    pass_over_images: int = Field(default=1, ge=1)
    """Images up to the bad step that are passed over, in whole batches."""
    max_rollbacks: int = Field(default=3, ge=1)
    """After as many the run stops."""


class OptimizationConfig(Config):
    """How any model is trained: how long, on how many images at a time, by which optimizer."""

    images: int = Field(ge=1)
    """Length of the training in images seen; rounded up to whole batches."""
    batch: int = Field(ge=1)
    """Images of one optimizer step, over all ranks."""
    optimizer: AdamWConfig
    """The optimizer."""
    rate: RateConfig
    """The learning rate over time."""
    ema: EmaConfig | None = None
    """Averages of the weights, of which the first is the result; null keeps the last weights."""
    log_images: int = Field(ge=1)
    """Every how many images a row of metrics is recorded."""
    checkpoint_images: Annotated[int, Location()] = Field(ge=1)
    """Every how many images a checkpoint is written."""
    keep_checkpoints: Annotated[int, Location()] = Field(default=2, ge=1)
    """How many checkpoints are kept: the newest."""
    keep_every_images: Annotated[int | None, Location()] = Field(default=None, ge=1)
    """A checkpoint is kept for ever about every so many images; null keeps the newest only."""

    @model_validator(mode="after")
    def _warmup_is_shorter(self) -> Self:
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

    def kept_steps(self, steps: Sequence[int]) -> set[int]:
        """Of the steps of all checkpoints, in order, those that are kept."""
        newest = set(steps[-self.keep_checkpoints :])
        if self.keep_every_images is None:
            return newest
        first_of = {step * self.batch // self.keep_every_images: step for step in reversed(steps)}
        return newest | {step for interval, step in first_of.items() if interval > 0}

    def lr_at(self, images_seen: int) -> float:
        """Learning rate of the step that ends at ``images_seen``."""
        return self.optimizer.lr * rate_factor(
            images_seen,
            warmup=self.rate.warmup_images,
            total=self.num_steps * self.batch,
            shape=self.rate.shape,
        )


class TrainConfig(OptimizationConfig):
    """How a denoiser or an autoencoder is trained on the ranks of a gang."""

    micro_batch: Annotated[int, Location()] = Field(ge=1)
    """Most images of one forward pass on one rank; a question of memory."""
    ema: EmaConfig
    """The average that becomes the snapshot."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], Location()] = 1
    """What DeepSpeed partitions over the ranks: 1 optimizer, 2 gradients too, 3 weights too."""
    precision: Precision
    """Type of the matrix products; weights, gradients and optimizer are fp32."""
    loss_scale: float | None = Field(default=None, gt=0)
    """Factor on the loss under fp16; null finds the largest that does not overflow, step by step.
    A step that overflows changes no weight and is counted in `skipped_steps`."""
    on_divergence: DivergenceConfig = DivergenceConfig()
    """What happens to a run that goes wrong."""
    activation_checkpointing: Annotated[bool, Location()] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more
    time, the same numbers."""
    compile: Annotated[bool, Location()] = False
    """Compile the network with `torch.compile`, at ZeRO stages 0 to 2; changes numbers by
    rounding."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.loss_scale is not None and self.precision != "fp16":
            raise ValueError(
                f"loss_scale={self.loss_scale} belongs to precision=fp16, which"
                f" precision={self.precision} is not; remove it"
            )
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile=true does not go with zero_stage=3, which gathers weights inside the"
                " network; set zero_stage to 2 or less, or compile=false"
            )
        return self

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


def deepspeed_config(train: TrainConfig, *, world_size: int, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's JSON for ``train`` of ``num_parameters`` on ``world_size`` ranks.

    bf16 and fp16 are torch's autocast around fp32 weights: one kind of master weights for every
    stage, and gradients are accumulated and reduced in fp32. Their bucket is no larger than they
    are: DeepSpeed allocates it whole, 2 GB by default, in every step.
    """
    micro_batch = train.micro_batch_of(world_size)
    config: dict[str, Any] = {
        "train_batch_size": train.batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": train.batch // world_size // micro_batch,
        "zero_optimization": {
            "stage": train.zero_stage,
            "reduce_bucket_size": min(num_parameters, _LARGEST_BUCKET),
        },
        "steps_per_print": 2**40,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": False,
    }
    if train.optimizer.clip is not None:
        config["gradient_clipping"] = train.optimizer.clip
    if train.precision != "fp32":
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": {"bf16": "bfloat16", "fp16": "float16"}[train.precision],
            "lower_precision_safe_modules": [],
        }
    return config
