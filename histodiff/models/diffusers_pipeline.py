"""A denoiser and its autoencoder as a pipeline of plain diffusers, which samples without our code.

``LDMPipeline`` walks ``z = x / sqrt(1 + sigma^2)`` from noise to data with ``DDIMScheduler``, and
then decodes ``z``. So that it computes what ours does: (1) an objective whose network takes that
``z`` becomes a ``prediction_type``; (2) noise levels that are no table of DDPM's become one, of
`NUM_LEVELS` levels, and the network's embedding of each is kept as a row of an ``nn.Embedding``
(``time_embedding_type="learned"``), as the pipeline gives the network nothing but the number of the
level; (3) whitening is folded into the 1x1 convolutions beside the latents. Nothing is approximated
but by rounding. Legend: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from histodiff.diffusion import KarrasSchedule, noise_levels
from histodiff.diffusion.objectives import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    ObjectiveConfig,
    VObjective,
)
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder
from histodiff.models.denoiser import LoadedDenoiser

NUM_LEVELS = 1000
"""Noise levels of an exported ``v`` or ``edm``; the pipeline visits some of them."""
EXPORTABLE = "epsilon, v and edm"

DiffusersPipeline: TypeAlias = LDMPipeline
"""What is exported, for those that use it."""


@dataclass(frozen=True)
class _Translation:
    """An objective in the pipeline's words."""

    scheduler: DDIMScheduler
    levels: Tensor | None
    """Our sigma of every level, ascending, where it is no timestep of DDPM."""
    output_sign: int
    """Our network's output as a multiple of what ``prediction_type`` names."""
    data_std: float
    """Latents of the pipeline are whitened ones divided by this."""


def diffusers_pipeline(loaded: LoadedDenoiser, autoencoder: Autoencoder) -> DiffusersPipeline:
    """The pipeline whose samples are those of ``loaded``, decoded by ``autoencoder``; on the CPU.

    Raises:
        ConfigError: The objective, the network or the autoencoder cannot be put so.
    """
    if autoencoder.encoder_sha256 != loaded.encoder_sha256:
        raise ConfigError(
            f"the autoencoder has encoder {autoencoder.encoder_sha256[:12]}, the denoiser draws"
            f" latents of {loaded.encoder_sha256[:12]}; give the one that it was trained with"
        )
    translation = _translation(loaded.denoiser.config.objective, loaded)
    return LDMPipeline(
        vqvae=_folded_autoencoder(loaded, autoencoder, data_std=translation.data_std),
        unet=_plain_unet(loaded, translation),
        scheduler=translation.scheduler,
    )


def pipeline_sigmas(pipeline: DiffusersPipeline, steps: int) -> Tensor:
    """Our noise levels of ``steps`` steps of the pipeline, descending, the last one zero: float64.

    For data of unit variance; an ``edm`` with another ``sigma_data`` multiplies them by it.
    """
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    levels: Tensor = ((1 - kept) / kept).sqrt()
    return torch.cat([levels, levels.new_zeros(1)])


def _translation(objective: ObjectiveConfig, loaded: LoadedDenoiser) -> _Translation:
    match objective:
        case EpsilonObjective():
            scheduler = _scheduler(
                num_train_timesteps=objective.num_timesteps,
                beta_start=objective.beta_start,
                beta_end=objective.beta_end,
                beta_schedule="scaled_linear",
                prediction_type="epsilon",
                steps_offset=1,  # as our `leading` does, after latent diffusion
            )
            return _Translation(scheduler, None, output_sign=1, data_std=1.0)
        case VObjective() | EdmObjective():
            scales = loaded.denoiser.preconditioning
            schedule = KarrasSchedule(type="karras", steps=NUM_LEVELS)
            levels = noise_levels(schedule, scales)[:-1].flip(0)
            scheduler = _scheduler(
                num_train_timesteps=NUM_LEVELS,
                trained_betas=_betas(levels / scales.data_std),
                prediction_type="v_prediction",
                steps_offset=0,
            )
            # of Karras et al. 2022, Table 1: c_skip, c_out and c_in are those of v, but for the
            # sign of c_out, when x and sigma are measured in sigma_data
            sign = -1 if isinstance(objective, EdmObjective) else 1
            return _Translation(scheduler, levels, output_sign=sign, data_std=scales.data_std)
        case FlowObjective():
            raise ConfigError(
                "objective 'flow' cannot be exported: its network takes x / (1 + sigma), and"
                f" LDMPipeline gives x / sqrt(1 + sigma^2); {EXPORTABLE} can"
            )


def _scheduler(**fields: Any) -> DDIMScheduler:
    return DDIMScheduler(
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", **fields
    )


def _betas(sigmas: Tensor) -> list[float]:
    """Betas whose products ``prod(1 - beta)`` are ``1 / (1 + sigma^2)``, for ascending sigmas.

    diffusers keeps them in float32, which moves the lowest levels by up to 0.4 %.
    """
    kept = 1 / (1 + sigmas.double() ** 2)
    betas: list[float] = (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).tolist()
    return betas


def _plain_unet(loaded: LoadedDenoiser, translation: _Translation) -> UNet2DModel:
    """The network with the pipeline's levels as its input, and its output as the pipeline's."""
    network = loaded.denoiser.network
    if not isinstance(network, UNet2DModel):
        raise ConfigError(
            f"the denoiser is a {type(network).__name__}, and only a UNet can be exported: it is"
            " the network that LDMPipeline knows"
        )
    if loaded.denoiser.config.self_conditioning is not None:
        raise ConfigError(
            "a denoiser with self_conditioning cannot be exported: LDMPipeline shows its network"
            " nothing but the noisy latent"
        )
    if loaded.denoiser.gaussian is not None:
        raise ConfigError(
            "a denoiser with gaussian_start cannot be exported: LDMPipeline adds the network to a"
            " multiple of the noisy latent, not to a filter of it"
        )
    height, width = loaded.latent_shape[1:]
    if height != width:
        raise ConfigError(f"latents of {width}x{height} px cannot be exported; they must be square")
    changes: dict[str, Any] = {"sample_size": height, "attention_head_dim": _head_dim(network)}
    state = {name: tensor.float().cpu() for name, tensor in network.state_dict().items()}
    if translation.levels is not None:
        changes |= {"time_embedding_type": "learned", "num_train_timesteps": NUM_LEVELS}
        noise = loaded.denoiser.preconditioning.c_noise(translation.levels.float())
        state["time_proj.weight"] = network.time_proj(noise).float().cpu()
    for name in ("conv_out.weight", "conv_out.bias"):
        state[name] = state[name] * translation.output_sign
    exported = UNet2DModel.from_config(_public(network.config) | changes)
    exported.load_state_dict(state)
    return exported.eval()


def _head_dim(network: nn.Module) -> int | None:
    """The one width of head, or None for one head everywhere: what diffusers' config can say."""
    attention = [module for module in network.modules() if isinstance(module, Attention)]
    widths = {module.inner_dim // module.heads for module in attention}
    if len(widths) == 1:
        return int(widths.pop())
    if {module.heads for module in attention} == {1}:
        return None
    raise ConfigError(
        f"network.num_heads={attention[0].heads} cannot be exported: UNet2DModel fixes the width of"
        f" a head, and here they are {', '.join(map(str, sorted(widths)))}; train with head_dim"
    )


def _folded_autoencoder(
    loaded: LoadedDenoiser, autoencoder: Autoencoder, *, data_std: float
) -> AutoencoderKL:
    """The autoencoder with the pipeline's latents: whitened ones divided by ``data_std``."""
    network = autoencoder.network
    if not isinstance(network, AutoencoderKL):
        raise ConfigError(
            f"a denoiser of {type(network).__name__} cannot be exported: the whitening is folded"
            " into the 1x1 convolutions of an AutoencoderKL, and it has none"
        )
    changes = {
        "use_quant_conv": True, "use_post_quant_conv": True, "scaling_factor": 1.0,
        "shift_factor": None, "latents_mean": None, "latents_std": None,
        "sample_size": loaded.patch_px,
    }  # fmt: skip
    exported = AutoencoderKL.from_config(_public(network.config) | changes)
    identities = {
        f"{name}.{kind}": tensor
        for name, layer in (
            ("quant_conv", exported.quant_conv),
            ("post_quant_conv", exported.post_quant_conv),
        )
        for kind, tensor in _identity(layer).items()
    }
    own = {name: tensor.float().cpu() for name, tensor in network.state_dict().items()}
    exported.load_state_dict(identities | own)
    mean_C = torch.tensor(loaded.whitening_mean, dtype=torch.float64)
    std_C = torch.tensor(loaded.whitening_scale, dtype=torch.float64) * data_std
    _fold(exported, mean_C, std_C)
    return exported.eval()


def _identity(layer: nn.Conv2d) -> dict[str, Tensor]:
    channels = layer.weight.shape[0]
    return {
        "weight": torch.eye(channels).reshape(channels, channels, 1, 1),
        "bias": torch.zeros(channels),
    }


@torch.no_grad()
def _fold(network: AutoencoderKL, mean_C: Tensor, std_C: Tensor) -> None:
    """Has the network decode ``z`` for ``std z + mean``, and encode to the posterior of ``z``."""
    after, before = network.quant_conv, network.post_quant_conv
    weight_CC = before.weight.double()[:, :, 0, 0]
    before.bias.copy_(before.bias.double() + weight_CC @ mean_C)
    before.weight.copy_((weight_CC * std_C)[:, :, None, None])
    # quant_conv gives C means and C logarithms of variances
    scale_2C = torch.cat([1 / std_C, torch.ones_like(std_C)])
    shift_2C = torch.cat([-mean_C / std_C, -2 * std_C.log()])
    after.weight.copy_(after.weight.double() * scale_2C[:, None, None, None])
    after.bias.copy_(after.bias.double() * scale_2C + shift_2C)


def _public(config: Any) -> dict[str, Any]:
    """The fields of a diffusers config, without its notes: those would bring back its defaults."""
    return {name: value for name, value in dict(config).items() if not name.startswith("_")}
