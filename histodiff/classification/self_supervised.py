"""A plain self-supervised encoder: two views of a patch are alike, those of others are not.

SimCLR (Chen et al. 2020, arXiv 2002.05709). No label is used: what unlabelled patches and the same
minutes buy without a generator. What a view is, is in ``views.py``. The linear head is found by
logistic regression afterwards, and becomes the head of the network. Legend: B batch, D features,
K classes.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from histodiff.classification.images import Pixels
from histodiff.classification.training import freeze_backbone, initial_classifier
from histodiff.classification.views import ViewConfig, views_of
from histodiff.features.logistic import LogisticModel
from histodiff.models.classifier import Classifier, ClassifierConfig
from histodiff.runtime import derived_seed, generators_for
from histodiff.storage import StoragePath
from histodiff.training import MetricsRow, OptimizationConfig, fit


class ContrastiveTraining(OptimizationConfig):
    """How the encoder is trained, on patches whose labels it never sees."""

    temperature: float = Field(default=0.2, gt=0)
    """Of the similarities: the lower, the more the nearest others count."""
    projection: int = Field(default=128, ge=2)
    """Features of the projection that similarities are taken in; it is thrown away."""
    views: ViewConfig = ViewConfig()
    """What may happen to a patch before it is compared with itself."""


class _Encoder(nn.Module):
    """A network before its logits, and a projection."""

    def __init__(self, classifier: Classifier, *, projection: int) -> None:
        super().__init__()
        self.classifier = classifier
        head: nn.Module = classifier.backbone.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        width = head.in_features
        self.projection = nn.Sequential(
            nn.Linear(width, 2 * width, bias=False), nn.BatchNorm1d(2 * width), nn.ReLU(),
            nn.Linear(2 * width, projection),
        )  # fmt: skip

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Projected features of length one, (B, D)."""
        projected_BD: Tensor = self.projection(self.classifier.features(pixels_BCHW))
        return functional.normalize(projected_BD, dim=1)


def self_supervised_classifier(
    pixels_NHWC: Pixels,
    *,
    backbone: ClassifierConfig,
    training: ContrastiveTraining,
    num_classes: int,
    seed: int,
    device: str,
    checkpoints: StoragePath,
) -> tuple[Classifier, list[MetricsRow]]:
    """A network that learned from patches alone, in evaluation mode; its head is still random.

    Args:
        pixels_NHWC: Patches.
        backbone: The network.
        training: How it is trained.
        num_classes: Logits of its head.
        seed: Decides first weights and every draw.
        device: Where it runs.
        checkpoints: Folder of the checkpoints; the same call again resumes.

    Raises:
        ConfigError: The backbone has no linear head.
    """
    classifier = initial_classifier(backbone, num_classes=num_classes, seed=seed, device=device)
    freeze_backbone(classifier)  # refuses a head that is not linear
    classifier.train().requires_grad_(requires_grad=True)
    head: nn.Module = classifier.backbone.get_classifier()  # type: ignore[operator]
    head.requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "projection-weights"))
        encoder = _Encoder(classifier, projection=training.projection).to(device)
    loss = _loss(encoder, pixels_NHWC, training, seed=seed, device=device)
    records = fit(
        encoder, loss=loss, config=training, seed=seed, checkpoints=checkpoints,
        run="self-supervised",
    )  # fmt: skip
    return classifier.eval().requires_grad_(requires_grad=False), records


def set_linear_head(classifier: Classifier, model: LogisticModel) -> None:
    """Makes the logistic regression on a network's features its head."""
    head: nn.Module = classifier.backbone.get_classifier()  # type: ignore[operator]
    assert isinstance(head, nn.Linear)
    weight_DK = model.weight_DK / model.scale_D[:, None]
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight_DK.T))
        head.bias.copy_(torch.from_numpy(model.bias_K - model.mean_D @ weight_DK))


def contrastive_loss(first_BD: Tensor, second_BD: Tensor, *, temperature: float) -> Tensor:
    """Mean cross-entropy of finding each view's partner among all others (NT-Xent, Eq. 1).

    Args:
        first_BD: A view of every patch, of length one.
        second_BD: The other.
        temperature: Of the cosine similarities.
    """
    both = torch.cat([first_BD, second_BD])
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    half = len(first_BD)
    partner = torch.arange(2 * half, device=both.device).roll(half)
    return functional.cross_entropy(similarity, partner)


def _loss(
    encoder: _Encoder,
    pixels_NHWC: Pixels,
    training: ContrastiveTraining,
    *,
    seed: int,
    device: str,
) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        indices = range(step * training.batch, (step + 1) * training.batch)
        rows = [
            int(rng.integers(len(pixels_NHWC))) for rng in generators_for(seed, "view-row", indices)
        ]
        views = [
            views_of(
                pixels_NHWC[rows], config=training.views, seed=derived_seed(seed, "view", number),
                indices=indices, device=device,
            )
            for number in range(2)
        ]  # fmt: skip
        first, second = encoder(torch.cat(views)).chunk(2)
        return contrastive_loss(first, second, temperature=training.temperature)

    return loss
