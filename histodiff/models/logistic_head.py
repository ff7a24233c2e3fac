"""Logistic regressions on the features of a frozen denoiser, one for each of several noise levels.

Between two levels logits are linear in log sigma; beyond the ends they are those of the end. With
a few labelled slides this has the two virtues that a trained network lacks: its optimum is unique,
and one number says how much it may learn. Legend: B batch, D features, L levels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histodiff.errors import ArtifactCorrupt
from histodiff.models.weights import fill, read_model, save_model
from histodiff.storage import StoragePath

LOGISTIC_MODEL = "logistic-feature-guide"
_SMALLEST_SIGMA = 1e-6


class LogisticHead(nn.Module):
    """Logits of features at a noise level: ``W_l (f - m_l) + b_l`` at each of the levels.

    Args:
        layers: Layers of the denoiser whose features it reads, in their order.
        sigmas: Noise levels of the regressions, ascending.
        num_features: D.
        num_classes: K.
    """

    mean_LD: Tensor
    weight_LKD: Tensor
    bias_LK: Tensor
    log_sigma_L: Tensor

    def __init__(
        self,
        *,
        layers: tuple[str, ...],
        sigmas: Sequence[float],
        num_features: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        levels = len(sigmas)
        self.layers, self.sigmas = layers, tuple(sigmas)
        self.num_features, self.num_classes = num_features, num_classes
        self.register_buffer("mean_LD", torch.zeros(levels, num_features))
        self.register_buffer("weight_LKD", torch.zeros(levels, num_classes, num_features))
        self.register_buffer("bias_LK", torch.zeros(levels, num_classes))
        log_sigma_L = torch.tensor(self.sigmas, dtype=torch.float64).log().float()
        self.register_buffer("log_sigma_L", log_sigma_L, persistent=False)

    @torch.no_grad()
    def take(self, level: int, *, mean_D: Tensor, weight_KD: Tensor, bias_K: Tensor) -> None:
        """Sets the regression of one level."""
        self.mean_LD[level].copy_(mean_D)
        self.weight_LKD[level].copy_(weight_KD)
        self.bias_LK[level].copy_(bias_K)

    def forward(self, features_BD: Tensor, sigma_B: Tensor) -> Tensor:
        """Logits (B, K), fp32."""
        centred_BLD = features_BD.float()[:, None] - self.mean_LD
        logits_BLK = torch.einsum("bld,lkd->blk", centred_BLD, self.weight_LKD) + self.bias_LK
        return (self._shares(sigma_B)[:, :, None] * logits_BLK).sum(dim=1)

    def _shares(self, sigma_B: Tensor) -> Tensor:
        """How much each level counts at each noise level, (B, L); rows sum to one."""
        wanted_B = sigma_B.float().clamp_min(_SMALLEST_SIGMA).log()
        last = len(self.sigmas) - 1
        if last == 0:
            return torch.ones_like(wanted_B)[:, None]
        upper_B = torch.searchsorted(self.log_sigma_L, wanted_B.contiguous()).clamp(1, last)
        low_B, high_B = self.log_sigma_L[upper_B - 1], self.log_sigma_L[upper_B]
        share_B = ((wanted_B - low_B) / (high_B - low_B)).clamp(0, 1)
        shares_BL = torch.zeros(len(wanted_B), last + 1, device=wanted_B.device)
        shares_BL.scatter_(1, upper_B[:, None], share_B[:, None])
        return shares_BL.scatter(1, upper_B[:, None] - 1, 1 - share_B[:, None])


@dataclass(frozen=True)
class LoadedLogisticHead:
    """Regressions ready for use."""

    head: LogisticHead
    classes: tuple[str, ...]
    """Label of each logit."""
    snapshot: str
    """EMA snapshot of the denoiser whose features they read."""


def save_logistic_head(
    path: StoragePath, head: LogisticHead, *, classes: tuple[str, ...], snapshot: str
) -> None:
    """Writes the regressions into the folder ``path``."""
    assert len(classes) == head.num_classes
    save_model(
        path,
        model=LOGISTIC_MODEL,
        state=head.state_dict(),
        description={
            "layers": list(head.layers),
            "sigmas": list(head.sigmas),
            "num_features": head.num_features,
            "classes": list(classes),
            "snapshot": snapshot,
        },
    )


def load_logistic_head(path: StoragePath, device: str) -> LoadedLogisticHead:
    """The regressions saved in ``path``, frozen.

    Raises:
        ArtifactNotFound: There are none.
        ArtifactCorrupt: They are damaged.
    """
    stored = read_model(path, model=LOGISTIC_MODEL)
    try:
        classes = tuple(stored.description["classes"])
        head = LogisticHead(
            layers=tuple(stored.description["layers"]),
            sigmas=[float(sigma) for sigma in stored.description["sigmas"]],
            num_features=int(stored.description["num_features"]),
            num_classes=len(classes),
        )
        snapshot = str(stored.description["snapshot"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a guide's: {error}") from error
    fill(head, stored, path=path)
    return LoadedLogisticHead(head.to(device).eval(), classes, snapshot)
