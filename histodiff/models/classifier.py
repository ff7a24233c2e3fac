"""Image classifiers: any timm backbone behind pixels in and logits or features out.

Size and normalisation of the input are part of the model and saved with it, so that nobody can
normalise differently later. Legend: B batch, C channels, H height, W width, K classes, D features.
"""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from timm.models import load_model_config_from_hf, load_state_dict_from_hf
from torch import Tensor, nn

from histodiff.config import Config, Location
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.models.backbone_weights import load_backbone, state_in_bytes
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
    """A safetensors file, or a checkpoint of plain tensors (`.pth`, `.pt`, `.bin`)."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file: the path alone does not say what is computed."""
    key: str | None = None
    """Entry of a training's checkpoint, such as `teacher`; null where there is one network."""
    prefix: str | None = None
    """What the backbone's names begin with, such as `teacher.backbone.`; null finds it out."""


PretrainedConfig = Annotated[
    NoWeights | HubWeights | RepositoryWeights | FileWeights, Field(discriminator="type")
]


class Normalisation(Config):
    """Mean and standard deviation of each colour, for pixels in 0..1."""

    mean: tuple[float, float, float]
    """Of red, green, blue."""
    std: tuple[float, float, float]
    """Of red, green, blue."""


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
    arguments: dict[str, bool | int | float | str] = Field(default={})
    """Arguments of timm's `create_model`, such as `init_values` (LayerScale) or `reg_tokens`."""
    normalisation: Normalisation | None = None
    """Mean and deviation of the pixels the weights were trained on; null is what timm says."""


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
        case RepositoryWeights() as weights:
            backbone = _of_repository(config, weights, num_classes)
        case FileWeights() as weights:
            backbone = _backbone(config, config.model, num_classes, {})
            load_backbone(
                backbone, _state_in_file(weights), prefix=weights.prefix,
                source=f"classifier.pretrained.path '{weights.path}'",
            )  # fmt: skip
    settings: Any = backbone.pretrained_cfg
    normalisation = config.normalisation or _normalisation(settings["mean"], settings["std"])
    classifier = Classifier(backbone, config, num_classes=num_classes, normalisation=normalisation)
    return classifier.to(device)


def _of_repository(
    config: ClassifierConfig, weights: RepositoryWeights, num_classes: int
) -> nn.Module:
    """A backbone with the weights of a repository, and the mean and deviation it states."""
    backbone = _backbone(config, config.model, num_classes, {})
    place = f"{weights.repository}@{weights.revision}"
    source = f"classifier.pretrained.repository '{place}'"
    try:
        stated, _, _ = load_model_config_from_hf(place)
        state = load_state_dict_from_hf(place, weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{source}: cannot be fetched ({reason}); check name, revision and access, or give the"
            " file (type: file; type: none needs no download)"
        ) from error
    load_backbone(backbone, state, prefix=None, source=source)
    settings: Any = backbone.pretrained_cfg
    settings.update({name: stated[name] for name in ("mean", "std") if name in stated})
    return backbone


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    return Normalisation.model_validate({"mean": tuple(mean), "std": tuple(std)})


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
    return state_in_bytes(
        data, key=weights.key, source=f"classifier.pretrained.path '{weights.path}'"
    )


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
            drop_path_rate=config.drop_path, **sized, **config.arguments, **options,
        )  # fmt: skip
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"classifier.model '{name}': cannot be created ({reason}); check input_px,"
            " arguments and pretrained (type: none needs no download)"
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
        normalisation = _normalisation(stored.description["mean"], stored.description["std"])
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
