"""The denoiser as training starts with it: its first weights, and the attention that runs in it."""

import logging

import torch

from histodiff.errors import ConfigError
from histodiff.kernels.autotune import AttentionReport, AttentionUse, choose_attention
from histodiff.models.cost import network_cost
from histodiff.models.denoiser import Denoiser
from histodiff.models.pretrained import source_sha256, start_from
from histodiff.pretraining.gaussian import load_fit
from histodiff.pretraining.spec import PretrainSpec
from histodiff.runtime import derived_seed
from histodiff.storage import storage_path
from histodiff.training import mean_over_ranks

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_log = logging.getLogger(__name__)


def initial_denoiser(spec: PretrainSpec, latent_shape: tuple[int, int, int]) -> Denoiser:
    """The denoiser with its first weights: those of ``spec.init``, or drawn on the CPU.

    Either way they are the same on every device and rank.

    Raises:
        ConfigError: ``spec.init`` does not fit the network, or is another one on this machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(spec.seed, "denoiser-weights"))
        denoiser = Denoiser(spec.denoiser, latent_shape=latent_shape, device=spec.device).train()
    if denoiser.gaussian is not None and spec.gaussian is not None:
        denoiser.gaussian.take(load_fit(storage_path(spec.gaussian)))
    if spec.init is not None:
        found = source_sha256(spec.init)
        if found != spec.init_sha256:
            raise ConfigError(
                f"init.source '{spec.init.source}': this machine has {found[:12]}, the run began"
                f" with {str(spec.init_sha256)[:12]}; give every machine the same files"
            )
        start_from(denoiser.network, spec.init)
    if spec.train.activation_checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    if spec.train.compile:
        denoiser.network.compile(dynamic=False)
    return denoiser


def chosen_attention(denoiser: Denoiser, spec: PretrainSpec, *, batch: int) -> AttentionReport:
    """Installs the attention that the config asks for, the same on every rank, and logs it.

    Args:
        denoiser: The network.
        spec: Names the backend, the device and the precision.
        batch: Images of a forward pass.

    Raises:
        ConfigError: A backend was named, and cannot run the network's shapes here.
    """
    use = AttentionUse(
        shapes=network_cost(spec.denoiser.network, denoiser.latent_shape).attention,
        batch=batch,
        dtype=_DTYPES[spec.train.precision],
        device=torch.device(spec.device),
    )
    report = choose_attention(
        denoiser.network, spec.denoiser.network.attention.backend, use=use, agree=mean_over_ranks
    )
    _log.info("attention: %s", report)
    return report
