"""The Accelerate loop beside ``bench train``, in an environment of its own (``peers=PYTHON``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histodiff.models.unet import UNetConfig, create_unet
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.pretraining.spec import PretrainSpec
from histodiff.workflows.bench.peers import PeerProcess

PEERS_SCRIPT, PEERS_TARGET = "tests/benchmarks/peers/train_peers.py", "bench-train-peers"


class AccelerateLoop:
    """A loop that works as diffusers' own example of unconditional training, with our UNet.

    Args:
        peer: The running script.
        spec: The workload.
        batches: Give the latents that it trains on.
        folder: Where they are put for it.
    """

    def __init__(
        self,
        peer: PeerProcess,
        spec: PretrainSpec,
        batches: Sequence[CleanAndNoise],
        *,
        folder: Path,
    ) -> None:
        self._peer = peer
        latents = torch.cat([batch.clean_BCHW.cpu() for batch in batches]).numpy()
        np.save(folder / "latents.npy", latents)
        network = spec.denoiser.network
        assert isinstance(network, UNetConfig)
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        unet: Any = create_unet(network, latent_shape=shape, device=torch.device("cpu"))
        self.facts = peer.ask(
            do="prepare",
            unet={key: value for key, value in unet.config.items() if not key.startswith("_")},
            latents=str(folder / "latents.npy"),
            folder=str(folder),
            batch=spec.train.batch,
            lr=spec.train.optimizer.lr,
            precision=spec.train.precision,
            device=spec.device,
            threads=spec.threads,
        )
        """Its versions and peak memory."""

    def block(self, steps: int) -> float:
        """Does so many steps; how many seconds they took."""
        return float(self._peer.ask(do="steps", count=steps)["seconds"])
