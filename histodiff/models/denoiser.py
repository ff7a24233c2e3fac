"""The denoiser ``D(x; sigma)``: a network behind a preconditioning, and its snapshots.

It lives in whitened latent space; the whitening, the encoder it belongs to and the scale of its
patches are saved with it, so that every later reader uses the same. Snapshots are safetensors +
JSON. Legend: B batch, C channels, H height, W width of a latent.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from histodiff.config import Config
from histodiff.diffusion import (
    Denoise,
    ObjectiveConfig,
    Preconditioning,
    UncertaintyWeighting,
    create_preconditioning,
)
from histodiff.errors import ArtifactCorrupt
from histodiff.kernels.attention import AttentionConfig
from histodiff.models.gaussian import GaussianDenoiser, GaussianStart
from histodiff.models.layer_features import LayerFeatures, Projection
from histodiff.models.network import Network, NetworkConfig, create_network
from histodiff.models.uncertainty import Uncertainty
from histodiff.models.weights import (
    StoredModel,
    fill,
    module_dtype,
    read_description,
    read_model,
    save_model,
)
from histodiff.storage import StoragePath

SNAPSHOTS = "snapshots"
"""Folder of the EMA snapshots in a Denoiser."""
LAST = "last"
"""The newest of them, of the first half-life."""
_MODEL, _PROJECTION = "denoiser", "projection."


class SelfConditioning(Config):
    """The network is shown its last estimate of the clean latent (Chen et al. 2023, Analog Bits).

    Beside the noisy latent goes the estimate of the sampler's last step, or zeros. In training a
    share of the samples, decided by seed and index, gets an estimate of the same noise level.
    """

    probability: float = Field(gt=0, le=1)
    """Share of the training samples that see an estimate; 0.5 in the paper. Every one of them costs
    another forward pass."""


class DenoiserConfig(Config):
    """The network and the objective that it is trained with."""

    network: NetworkConfig
    """The network: `unet` or `dit`."""
    objective: ObjectiveConfig = Field(discriminator="type")
    """Objective: `edm`, `v`, `epsilon` or `flow`."""
    self_conditioning: SelfConditioning | None = None
    """Whether the network is shown its last estimate; null shows it the noisy latent alone."""
    gaussian_start: GaussianStart | None = None
    """The network is added to the best denoiser of a Gaussian with the latents' mean and
    covariance: it need not learn what is Gaussian. null adds it to ``c_skip x``."""

    def input_channels(self, channels: int) -> int:
        """Channels that go into the network for latents of so many."""
        return channels if self.self_conditioning is None else 2 * channels


class TrainingOutput(NamedTuple):
    """What training needs of a denoiser."""

    denoised_BCHW: Tensor
    """``D(x; sigma)``, fp32."""
    uncertainty_B: Tensor | None
    """The learned ``u(sigma)``, fp32; None unless the objective's weighting learns it."""
    projected_BFHW: Tensor | None = None
    """Projected features of a layer; None unless there is a projection."""


class Denoiser(nn.Module):
    """``D(x; sigma)`` of whitened latents.

    The scales are computed in fp32; the network runs in the type of its parameters.
    """

    def __init__(self, config: DenoiserConfig, *, latent_shape: tuple[int, int, int],
                 device: str = "cpu") -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.latent_shape = latent_shape
        self.preconditioning: Preconditioning = create_preconditioning(config.objective)
        self.network: Network = create_network(
            config.network,
            latent_shape=latent_shape,
            device=torch.device(device),
            input_channels=config.input_channels(latent_shape[0]),
        )
        weighting = config.objective.weighting
        self.uncertainty = (
            Uncertainty(weighting.channels).to(device)
            if isinstance(weighting, UncertaintyWeighting)
            else None
        )
        start = config.gaussian_start
        self.gaussian = (
            None if start is None else GaussianDenoiser(latent_shape, rank=start.rank).to(device)
        )
        self.projection: Projection | None = None
        self._features: LayerFeatures | None = None

    def project(self, features: LayerFeatures, projection: Projection) -> None:
        """Has the training output hold ``projection`` of ``features``; snapshots are without."""
        self._features, self.projection = features, projection

    def forward(
        self,
        x_BCHW: Tensor,
        sigma_B: Tensor,
        *,
        previous_BCHW: Tensor | None = None,
        output: Literal["denoised", "training"] = "denoised",
    ) -> Tensor | TrainingOutput:
        """The expected clean latent given ``x = x0 + sigma n``: fp32, shaped as ``x_BCHW``.

        ``previous_BCHW`` is an estimate of it, for a network with self-conditioning.

        With ``output="training"`` the learned uncertainty comes with it: under ZeRO-3 parameters
        exist during the forward pass alone.
        """
        denoised_BCHW = self._denoised(x_BCHW, sigma_B, previous_BCHW)
        if output == "denoised":
            return denoised_BCHW
        uncertainty_B = None if self.uncertainty is None else self.uncertainty(sigma_B)
        if self._features is None or self.projection is None:
            return TrainingOutput(denoised_BCHW, uncertainty_B)
        return TrainingOutput(denoised_BCHW, uncertainty_B, self.projection(self._features.take()))

    def fresh(self) -> Denoise:
        """This denoiser for one run of a sampler, in which it is shown its last estimate."""
        return self if self.config.self_conditioning is None else _ShownItsLast(self)

    def _denoised(self, x_BCHW: Tensor, sigma_B: Tensor, previous_BCHW: Tensor | None) -> Tensor:
        scales = self.preconditioning
        sigma_B111 = sigma_B.float().reshape(-1, 1, 1, 1)
        x_BCHW = x_BCHW.float()
        scaled_BCHW = scales.c_in(sigma_B111) * x_BCHW
        if self.config.self_conditioning is not None:
            shown_BCHW = torch.zeros_like(x_BCHW) if previous_BCHW is None else previous_BCHW
            scaled_BCHW = torch.cat([scaled_BCHW, shown_BCHW], dim=1)
        network_input = scaled_BCHW.to(module_dtype(self.network))
        output_BCHW: Tensor = self.network(network_input, scales.c_noise(sigma_B.float())).sample
        start_BCHW = (
            scales.c_skip(sigma_B111) * x_BCHW
            if self.gaussian is None
            else self.gaussian(x_BCHW, sigma_B)
        )
        # Karras et al. 2022, Eq. 7
        return start_BCHW + scales.c_out(sigma_B111) * output_BCHW.float()


class _ShownItsLast:
    """A denoiser with self-conditioning while one sampler runs: it remembers one estimate."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._last_BCHW: Tensor | None = None

    def __call__(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        denoised_BCHW: Tensor = self._denoiser(x_BCHW, sigma_B, previous_BCHW=self._last_BCHW)
        self._last_BCHW = denoised_BCHW
        return denoised_BCHW


@dataclass(frozen=True)
class SnapshotInfo:
    """What a denoiser was trained on, as every reader of it must know it."""

    whitening_mean: tuple[float, ...]
    """Mean of each raw latent channel; whitened = (raw - mean) / scale."""
    whitening_scale: tuple[float, ...]
    """Scale of each raw latent channel."""
    encoder_sha256: str
    """The encoder whose latents these are."""
    patch_px: int
    """Side of the patches in pixels."""
    mpp: float | None
    """Microns per pixel of the patches; None where unknown or mixed."""
    images_seen: int
    """Training images up to here."""
    view: Literal["sample", "mean"] = "sample"
    """What training saw of a posterior: a draw from it, or its mean."""
    whitening_rule: str = "power 1"
    """What made mean and scale: a power of the standard deviation, or `published`."""


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser ready for use, and what it was trained on."""

    denoiser: Denoiser
    info: SnapshotInfo

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent."""
        return self.denoiser.latent_shape

    @property
    def whitening_mean(self) -> tuple[float, ...]:
        """Mean of each raw latent channel."""
        return self.info.whitening_mean

    @property
    def whitening_scale(self) -> tuple[float, ...]:
        """Scale of each raw latent channel."""
        return self.info.whitening_scale

    @property
    def encoder_sha256(self) -> str:
        """The encoder whose latents these are."""
        return self.info.encoder_sha256

    @property
    def patch_px(self) -> int:
        """Side of the patches in pixels."""
        return self.info.patch_px

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the patches; None where unknown or mixed."""
        return self.info.mpp


@dataclass(frozen=True)
class DescribedDenoiser:
    """What a snapshot says of its denoiser, which is not loaded."""

    latent_shape: tuple[int, int, int]
    """Shape (C, h, w) of a latent."""
    info: SnapshotInfo


def describe_denoiser(path: StoragePath) -> DescribedDenoiser:
    """The description of a snapshot, without its weights.

    Raises:
        ArtifactNotFound: ``path`` holds no snapshot.
        ArtifactCorrupt: The description is damaged.
    """
    return _described(read_description(path, model=_MODEL), path)


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a denoiser's state is its own, and not the projection's, which training alone has."""
    return {name: each for name, each in state.items() if not name.startswith(_PROJECTION)}


def save_snapshot(
    path: StoragePath,
    denoiser: Denoiser,
    info: SnapshotInfo,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a snapshot into the folder ``path``.

    Args:
        path: Folder of the snapshot.
        denoiser: Gives the config, and the weights unless ``state`` does.
        info: What it was trained on.
        state: Weights to save instead, by the names of ``denoiser.state_dict()``: those of an EMA.
    """
    tensors = published(denoiser.state_dict() if state is None else state)
    save_model(
        path,
        model=_MODEL,
        state={name: tensor.float() for name, tensor in tensors.items()},
        description={
            "config": denoiser.config.model_dump(mode="json"),
            "latent_shape": list(denoiser.latent_shape),
            "info": asdict(info),
        },
    )


def load_denoiser(path: StoragePath, *, device: str) -> LoadedDenoiser:
    """The denoiser of a snapshot, in evaluation mode, frozen, with attention chosen for ``device``.

    Raises:
        ArtifactNotFound: ``path`` holds no snapshot.
        ArtifactCorrupt: The snapshot is damaged.
    """
    stored = _of_today(read_model(path, model=_MODEL))
    said = _described(stored.description, path)
    try:
        config = DenoiserConfig.model_validate(stored.description["config"])
    except (KeyError, ValueError) as error:
        raise _not_a_denoiser(path, error) from error
    denoiser = Denoiser(with_attention_here(config), latent_shape=said.latent_shape, device=device)
    fill(denoiser, stored, path=path)
    return LoadedDenoiser(denoiser.eval().requires_grad_(requires_grad=False), said.info)


def with_attention_here(config: DenoiserConfig) -> DenoiserConfig:
    """``config`` with the attention that runs anywhere, for readers of a finished network."""
    attention = AttentionConfig(backend="auto")
    network = config.network.model_copy(update={"attention": attention})
    return config.model_copy(update={"network": network})


def _of_today(stored: StoredModel) -> StoredModel:
    """A snapshot as it is written today; before there was a choice, ``network`` was ``unet``."""
    config = dict(stored.description.get("config", {}))
    if "unet" not in config:
        return stored
    config["network"] = {"type": "unet", **config.pop("unet")}
    state = {
        f"network.{name.removeprefix('unet.')}" if name.startswith("unet.") else name: tensor
        for name, tensor in stored.state.items()
    }
    return StoredModel(state, {**stored.description, "config": config})


def _described(description: Mapping[str, Any], path: StoragePath) -> DescribedDenoiser:
    try:
        channels, height, width = description["latent_shape"]
        return DescribedDenoiser((channels, height, width), _snapshot_info(description["info"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_denoiser(path, error) from error


def _not_a_denoiser(path: StoragePath, error: Exception) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{path}: its description is not a denoiser's: {error}")


def _snapshot_info(fields: Mapping[str, Any]) -> SnapshotInfo:
    """``info`` of a description; before scales had rules they were called ``whitening_std``."""
    known = dict(fields)
    scale = known.pop("whitening_std") if "whitening_std" in known else known["whitening_scale"]
    mean = known.pop("whitening_mean")
    return SnapshotInfo(**{**known, "whitening_mean": tuple(mean), "whitening_scale": tuple(scale)})
