"""Image classifiers: any timm backbone behind pixels in and logits or features out.

Size and normalisation of the input are part of the model and saved with it, so that nobody can
normalise differently later. Legend: B batch, C channels, H height, W width, K classes, D features.
"""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import timm
import torch
from pydantic import Field
from torch import Tensor, nn

from histodiff.config import Config, Location
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.models.weights import fill, module_dtype, read_model, save_model
from histodiff.storage import StoragePath

_MODEL = "classifier"


class NoWeights(Config):
    """Train from scratch."""

    type: Literal["none"]


class HubWeights(Config):
    """The weights that timm names for this backbone, from the Hugging Face hub."""

    type: Literal["hub"]
    tag: str | None = None
    """Which of several, such as `augreg_in1k`; by default timm's first choice."""


class RepositoryWeights(Config):
    """Weights in a repository of timm's layout on the Hugging Face hub, at one commit."""

    type: Literal["repository"]
    repository: str
    """Such as `timm/resnet50.a1_in1k`."""
    revision: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    """Commit, so that the weights cannot change."""


class FileWeights(Config):
    """Weights in a local file, with or without a matching head."""

    type: Literal["file"]
    path: Annotated[str, Location()]
    """A safetensors file with timm's parameter names."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file: the path alone does not say what is computed."""


PretrainedConfig = Annotated[
    NoWeights | HubWeights | RepositoryWeights | FileWeights, Field(discriminator="type")
]


class ClassifierConfig(Config):
    """A timm backbone."""

    model: str
    """Name of the backbone in timm, such as `resnet14t` or `vit_small_patch16_224`."""
    pretrained: PretrainedConfig
    """Where its first weights come from: `none`, `hub`, `repository` or `file`."""
    input_px: int = Field(ge=32)
    """Side that patches are resized to."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the logits."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each colour, for pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Classifier(nn.Module):
    """A backbone with its input size and normalisation."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        config: ClassifierConfig,
        *,
        num_classes: int,
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.normalisation = normalisation
        self.backbone = backbone
        for name, values in (("mean_C11", normalisation.mean), ("std_C11", normalisation.std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Logits (B, K), fp32, of uint8 pixels, or of float pixels in 0..255."""
        logits_BK: Tensor = self.backbone(self._prepared(pixels_BCHW))
        return logits_BK.float()

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Features (B, D), fp32, that the logits are a linear function of."""
        maps: Tensor = self.backbone.forward_features(self._prepared(pixels_BCHW))  # type: ignore[operator]
        pooled_BD: Tensor = self.backbone.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return pooled_BD.float()

    def _prepared(self, pixels_BCHW: Tensor) -> Tensor:
        values = pixels_BCHW.float()
        side = self.config.input_px
        if values.shape[-2:] != (side, side):
            values = nn.functional.interpolate(
                values, size=(side, side), mode="bilinear", antialias=True
            )
        normalised = (values / 255 - self.mean_C11) / self.std_C11
        return normalised.to(module_dtype(self.backbone))


def create_classifier(
    config: ClassifierConfig, num_classes: int, *, device: str = "cpu"
) -> Classifier:
    """A classifier with the first weights that ``config`` names, and an untrained head.

    Raises:
        ConfigError: timm knows no such backbone, or the weights cannot be loaded.
    """
    match config.pretrained:
        case NoWeights():
            backbone = _backbone(config, config.model, num_classes, {})
        case HubWeights(tag=tag):
            name = f"{config.model}.{tag}" if tag else config.model
            backbone = _backbone(config, name, num_classes, {"pretrained": True})
        case RepositoryWeights(repository=repository, revision=revision):
            options = {
                "pretrained": True,
                "pretrained_cfg_overlay": {"hf_hub_id": f"{repository}@{revision}"},
            }
            backbone = _backbone(config, config.model, num_classes, options)
        case FileWeights() as weights:
            overlay = {"state_dict": _state_in_file(weights)}
            options = {"pretrained": True, "pretrained_cfg_overlay": overlay}
            backbone = _backbone(config, config.model, num_classes, options)
            backbone.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
    settings: Any = backbone.pretrained_cfg
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    classifier = Classifier(backbone, config, num_classes=num_classes, normalisation=normalisation)
    return classifier.to(device)


def _state_in_file(weights: FileWeights) -> dict[str, Tensor]:
    try:
        data = Path(weights.path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"classifier.pretrained.path '{weights.path}': cannot be read ({error.strerror})"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != weights.sha256:
        raise ConfigError(
            f"classifier.pretrained.sha256: '{weights.path}' has {found}, not {weights.sha256};"
            " give the file that was meant, or its digest"
        )
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ConfigError(
            f"classifier.pretrained.path '{weights.path}': is no safetensors file ({error})"
        ) from error
    return state


def _backbone(
    config: ClassifierConfig, name: str, num_classes: int, options: dict[str, Any]
) -> nn.Module:
    architecture = config.model
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        raise ConfigError(
            f"classifier.model '{architecture}': timm has no such backbone;"
            f" did you mean {' or '.join(near) or 'resnet14t'}?"
        )
    settings = timm.get_pretrained_cfg(architecture)
    sized = {"img_size": config.input_px} if settings and settings.fixed_input_size else {}
    try:
        backbone: nn.Module = timm.create_model(
            name, num_classes=num_classes, drop_rate=config.dropout,
            drop_path_rate=config.drop_path, **sized, **options,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"classifier.model '{name}': cannot be created ({reason}); check input_px and"
            " pretrained (type: none needs no download)"
        ) from error
    return backbone


def save_classifier(path: StoragePath, classifier: Classifier, *, classes: tuple[str, ...]) -> None:
    """Writes the classifier into the folder ``path``."""
    assert len(classes) == classifier.num_classes
    save_model(
        path,
        model=_MODEL,
        state=classifier.state_dict(),
        description={
            "config": classifier.config.model_dump(mode="json"),
            "classes": list(classes),
            "mean": list(classifier.normalisation.mean),
            "std": list(classifier.normalisation.std),
        },
    )


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier ready for use."""

    classifier: Classifier
    classes: tuple[str, ...]
    """Label of each logit."""


def load_classifier(path: StoragePath, *, device: str) -> LoadedClassifier:
    """The classifier saved in ``path``, in evaluation mode, frozen.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    stored = read_model(path, model=_MODEL)
    try:
        config = ClassifierConfig.model_validate(stored.description["config"])
        classes = tuple(stored.description["classes"])
        normalisation = Normalisation(
            tuple(stored.description["mean"]), tuple(stored.description["std"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a classifier's: {error}") from error
    classifier = Classifier(
        _backbone(config, config.model, len(classes), {}),
        config,
        num_classes=len(classes),
        normalisation=normalisation,
    )
    fill(classifier, stored, path=path)
    classifier = classifier.to(device).eval().requires_grad_(requires_grad=False)
    return LoadedClassifier(classifier, classes)
