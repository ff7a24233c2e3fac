"""What guides are trained for and by, and what a training gives, whatever the kind."""

from dataclasses import dataclass, field, replace

from histodiff.diffusion import Preconditioning
from histodiff.guidance.adapter_guide import AdapterGuide
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.pseudo_labels import PseudoLabelled
from histodiff.models.denoiser import Denoiser
from histodiff.models.feature_head import DenoiserFeatures
from histodiff.training import MetricsRow


@dataclass(frozen=True)
class Lesson:
    """What guides are trained for and by, whatever is held out."""

    classes: tuple[str, ...]
    denoiser: Denoiser
    """The denoiser that is to be steered."""
    seed: int
    """Decides the first weights and every draw."""
    device: str
    pseudo_labelled: PseudoLabelled | None = None
    """Latents without labels, with what another guide says of them."""
    _features: dict[tuple[str, ...], DenoiserFeatures] = field(default_factory=dict, compare=False)

    def features(self, layers: tuple[str, ...]) -> DenoiserFeatures:
        """Features of layers of the denoiser; the same object for the same layers.

        Raises:
            ConfigError: The network has no such layer.
        """
        if layers not in self._features:
            self._features[layers] = DenoiserFeatures(self.denoiser, layers)
        return self._features[layers]

    @property
    def preconditioning(self) -> Preconditioning:
        """Of the denoiser: which noise levels there are."""
        return self.denoiser.preconditioning

    def without(self, groups: set[str]) -> "Lesson":
        """The same lesson, in which nothing is known of some slides or patients."""
        if self.pseudo_labelled is None:
            return self
        return replace(self, pseudo_labelled=self.pseudo_labelled.without(groups))


@dataclass(frozen=True)
class Taught:
    """A guide, in evaluation mode and without temperatures, and the losses of its training."""

    guide: ClassifierGuide | AdapterGuide
    rows: list[MetricsRow]
