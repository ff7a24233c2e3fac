"""A frozen denoiser made conditional: a class embedding, and low-rank changes of weights.

The embedding of the class is added to that of the noise level, as in ADM (Dhariwal & Nichol 2021)
and DiT; every matrix and kernel W of the network becomes ``W + L R`` with few columns in L (Hu et
al. 2022, LoRA, arXiv 2106.09685). One class more stands for "any": what is trained with it, too,
is the denoiser of all the labelled latents. L and the embeddings start at zero, so an untrained
adapter changes nothing. The denoiser itself keeps its weights; it is run with other ones.
Legend: B batch, C channels, H height, W width, K classes, E width of the embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt
from histodiff.models.denoiser import Denoiser
from histodiff.models.dit import DiT
from histodiff.models.network import Network
from histodiff.models.weights import fill, read_model, save_model
from histodiff.storage import StoragePath

ADAPTER_MODEL = "adapter-guide"
_NETWORK = "network."


class AdapterConfig(Config):
    """Size of an adapter."""

    rank: int = Field(default=4, ge=0)
    """Rank of the change of each matrix and kernel; 0 learns the class embedding alone."""


class Adapter(nn.Module):
    """What is learned; it belongs to one denoiser.

    Args:
        config: Its size.
        denoiser: The denoiser that is adapted.
        num_classes: K, without the class that stands for any.
    """

    def __init__(self, config: AdapterConfig, denoiser: Denoiser, *, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        width = _embedder(denoiser.network).linear_2.out_features
        self.classes = nn.Embedding(num_classes + 1, width)
        nn.init.zeros_(self.classes.weight)
        shapes = _matrices(denoiser.network) if config.rank else {}
        self.names = tuple(shapes)
        self.left = nn.ParameterList(
            torch.zeros(rows, min(config.rank, rows, columns)) for rows, columns in shapes.values()
        )
        self.right = nn.ParameterList(
            torch.randn(min(config.rank, rows, columns), columns) / columns**0.5
            for rows, columns in shapes.values()
        )

    @property
    def any_class(self) -> int:
        """Number of the class that stands for any."""
        return self.num_classes


class AdaptedDenoiser:
    """``D(x; sigma, class)``: a denoiser with the weights and the embeddings of an adapter.

    A denoiser with self-conditioning is asked as one that has made no estimate yet.
    """

    def __init__(self, denoiser: Denoiser, adapter: Adapter) -> None:
        self._denoiser = denoiser
        self._adapter = adapter
        self._merged: dict[str, Tensor] | None = None

    def __call__(self, x_BCHW: Tensor, sigma_B: Tensor, class_B: Tensor) -> Tensor:
        """The expected clean latent of a class, fp32, shaped as ``x_BCHW``.

        Args:
            x_BCHW: Noisy whitened latents.
            sigma_B: Their noise levels.
            class_B: Numbers of classes, or ``Adapter.any_class``.
        """
        with _embedded(self._denoiser.network, self._adapter.classes(class_B)):
            denoised_BCHW: Tensor = functional_call(
                self._denoiser, self._weights(), (x_BCHW, sigma_B)
            )
        return denoised_BCHW

    def _weights(self) -> dict[str, Tensor]:
        """Changed weights by their names in the denoiser; kept once they no longer change."""
        if self._merged is not None:
            return self._merged
        own = dict(self._denoiser.network.named_parameters())
        changed = {
            f"{_NETWORK}{name}": own[name] + (left @ right).reshape(own[name].shape).to(own[name])
            for name, left, right in zip(
                self._adapter.names, self._adapter.left, self._adapter.right, strict=True
            )
        }
        if not any(each.requires_grad for each in self._adapter.parameters()):
            self._merged = changed
        return changed


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter before its denoiser is known."""

    config: AdapterConfig
    classes: tuple[str, ...]
    snapshot: str
    """EMA snapshot of the denoiser that it adapts."""
    description: dict[str, Any]


def save_adapter(
    path: StoragePath,
    adapter: Adapter,
    *,
    classes: tuple[str, ...],
    snapshot: str,
    extra: dict[str, Any],
) -> None:
    """Writes the adapter into the folder ``path``; ``extra`` goes into its description."""
    assert len(classes) == adapter.num_classes
    save_model(
        path,
        model=ADAPTER_MODEL,
        state=adapter.state_dict(),
        description={
            **extra,
            "config": adapter.config.model_dump(mode="json"),
            "weights": list(adapter.names),
            "classes": list(classes),
            "snapshot": snapshot,
        },
    )


def read_adapter(path: StoragePath) -> StoredAdapter:
    """What the description of the adapter saved in ``path`` says.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    description = read_model(path, model=ADAPTER_MODEL).description
    try:
        return StoredAdapter(
            AdapterConfig.model_validate(description["config"]),
            tuple(description["classes"]),
            str(description["snapshot"]),
            description,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a guide's: {error}") from error


def load_adapter(path: StoragePath, denoiser: Denoiser, device: str) -> Adapter:
    """The adapter saved in ``path``, frozen.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged, or of a network with other weights.
    """
    known = read_adapter(path)
    adapter = Adapter(known.config, denoiser, num_classes=len(known.classes))
    if list(adapter.names) != known.description.get("weights"):
        raise ArtifactCorrupt(
            f"{path}: it adapts other weights than the denoiser's network has; train it anew"
        )
    fill(adapter, read_model(path, model=ADAPTER_MODEL), path=path)
    return adapter.to(device).eval().requires_grad_(requires_grad=False)


def _matrices(network: Network) -> dict[str, tuple[int, int]]:
    """Names of all matrices and kernels with their shapes as matrices (outputs, inputs)."""
    return {
        f"{name}.weight": (module.weight.shape[0], module.weight[0].numel())
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _embedder(network: Network) -> Any:
    """The layer that makes an embedding (B, E) of the noise level."""
    return network.noise_embedding if isinstance(network, DiT) else network.time_embedding


@contextmanager
def _embedded(network: Network, class_BE: Tensor) -> Iterator[None]:
    """While it is open, ``class_BE`` is added to the embedding of the noise level."""

    def added(_module: nn.Module, _given: Any, noise_BE: Tensor) -> Tensor:
        return noise_BE + class_BE.to(noise_BE)

    hook = _embedder(network).register_forward_hook(added)
    try:
        yield
    finally:
        hook.remove()
