"""How alike two pictures look to a fixed convolutional network.

The distance is that of LPIPS (Zhang et al. 2018, Eq. 1): features of several layers, each position
scaled to unit length over its channels, squared differences, weighted by channel, mean over
positions, sum over layers. ``random_features`` takes a small network with random weights, which
needs no download; ``lpips`` takes VGG16 and the learned weights, from files. Legend: B batch, C
channels, H height, W width.
"""

import hashlib
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from histodiff.config import Config, Location
from histodiff.errors import ConfigError
from histodiff.storage import read_bytes, storage_path

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions (Simonyan & Zisserman 2015), by block."""
_RANDOM = ((16, 16), (32, 32), (64, 64))
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
"""ImageNet's means and deviations for pixels in -1..1, as LPIPS uses them."""
_TINY = 1e-10


class RandomFeatures(Config):
    """A small network of VGG's shape with random orthogonal weights: nothing to download."""

    type: Literal["random_features"] = "random_features"
    seed: int = 0
    """Decides the weights; distances under different seeds cannot be compared."""


class WeightsFile(Config):
    """A file of tensors: safetensors, or PyTorch's (.pth, .pt), of which only tensors are read."""

    path: Annotated[str, Location()]
    """A path or URL."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file: the path alone does not say what is computed."""


class Lpips(Config):
    """LPIPS proper: VGG16 trained on ImageNet, channels weighted as people judged."""

    type: Literal["lpips"]
    files: tuple[WeightsFile, ...] = Field(min_length=1)
    """Together they hold the convolutions under torchvision's names (`features.0.weight`, as in
    vgg16-397923af.pth) and the weights of the channels under those of LPIPS
    (`lin0.model.1.weight`, as in its weights/v0.1/vgg.pth)."""
    blocks: tuple[tuple[int, ...], ...] = VGG16
    """Channels of the convolutions, by block; those of VGG16 unless it is another VGG."""


PerceptualConfig = Annotated[RandomFeatures | Lpips, Field(discriminator="type")]


class PerceptualDistance(nn.Module):
    """The distance under one network, which is never trained.

    Args:
        blocks: Channels of the convolutions, by block; the last of each block is compared.
        state: Weights ``features.N`` as torchvision counts them, and ``lin<block>`` (C) of the
            channels.
    """

    shift_C11: Tensor
    scale_C11: Tensor

    def __init__(self, blocks: tuple[tuple[int, ...], ...], state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(_convolution(state, number) for number in numbers)
            for numbers in _numbers(blocks)
        )
        for block in range(len(blocks)):
            self.register_buffer(f"lin{block}", state[f"lin{block}"].reshape(-1, 1, 1).float())
        for name, values in (("shift_C11", _SHIFT), ("scale_C11", _SCALE)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1))
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, decoded_BCHW: Tensor, clean_BCHW: Tensor) -> Tensor:
        """Distance (B) of pixels in -1..1; gradients flow to the first alone."""
        with torch.no_grad():
            wanted = [*self._features(clean_BCHW)]
        total_B = decoded_BCHW.new_zeros(len(decoded_BCHW))
        for block, found in enumerate(self._features(decoded_BCHW)):
            difference_BCHW = (found - wanted[block]).square() * self.get_buffer(f"lin{block}")
            total_B = total_B + difference_BCHW.sum(dim=1).mean(dim=(1, 2))
        return total_B

    @torch.no_grad()
    def pooled(self, pixels_BCHW: Tensor) -> Tensor:
        """Features (B, D) of pixels in -1..1: of every block's maps, mean and deviation."""
        pooled = [
            moment
            for maps_BCHW in self._features(pixels_BCHW)
            for moment in (maps_BCHW.mean(dim=(2, 3)), maps_BCHW.std(dim=(2, 3)))
        ]
        return torch.cat(pooled, dim=1)

    def _features(self, pixels_BCHW: Tensor) -> Iterator[Tensor]:
        """Features of the last layer of every block, of unit length at every position."""
        maps_BCHW = (pixels_BCHW - self.shift_C11) / self.scale_C11
        for number, block in enumerate(self.blocks):
            if number:
                maps_BCHW = functional.max_pool2d(maps_BCHW, 2)
            assert isinstance(block, nn.ModuleList)
            for convolution in block:
                maps_BCHW = functional.relu(convolution(maps_BCHW))
            yield functional.normalize(maps_BCHW.float(), dim=1, eps=_TINY)


def perceptual_distance(config: RandomFeatures | Lpips, *, device: str) -> PerceptualDistance:
    """The distance that ``config`` describes, on ``device``.

    Raises:
        ConfigError: A file is missing or another one, or holds other tensors.
    """
    match config:
        case RandomFeatures(seed=seed):
            distance = PerceptualDistance(_RANDOM, _random_state(seed))
        case Lpips() as lpips:
            distance = PerceptualDistance(lpips.blocks, _state_in(lpips))
    return distance.to(device)


def with_absolute_paths(config: RandomFeatures | Lpips) -> RandomFeatures | Lpips:
    """The same for processes that run in other folders."""
    if isinstance(config, RandomFeatures):
        return config
    files = [
        file.model_copy(update={"path": str(storage_path(file.path))}) for file in config.files
    ]
    return config.model_copy(update={"files": tuple(files)})


def _numbers(blocks: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    """Numbers of the convolutions among torchvision's layers: each with a ReLU, then a pooling."""
    numbers, at = [], 0
    for block in blocks:
        numbers.append([at + 2 * place for place in range(len(block))])
        at += 2 * len(block) + 1
    return numbers


def _shapes(blocks: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a network, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for block, (numbers, widths) in enumerate(zip(_numbers(blocks), blocks, strict=True)):
        for number, width in zip(numbers, widths, strict=True):
            shapes[f"features.{number}.weight"] = (width, before, 3, 3)
            shapes[f"features.{number}.bias"] = (width,)
            before = width
        shapes[f"lin{block}"] = (before,)
    return shapes


def _convolution(state: Mapping[str, Tensor], number: int) -> nn.Conv2d:
    weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    convolution.to_empty(device="cpu")
    convolution.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return convolution


def _random_state(seed: int) -> dict[str, Tensor]:
    """Orthogonal weights that keep the size of features (Saxe et al. 2014), channels alike."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in _shapes(_RANDOM).items():
        if name.endswith("weight"):
            state[name] = nn.init.orthogonal_(torch.empty(shape), gain=2**0.5, generator=generator)
        else:
            state[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    return state


def _state_in(config: Lpips) -> dict[str, Tensor]:
    """The tensors of LPIPS, found in its files."""
    found: dict[str, Tensor] = {}
    for file in config.files:
        found |= {_our_name(name): tensor for name, tensor in _tensors_in(file).items()}
    for name, shape in _shapes(config.blocks).items():
        if name not in found or found[name].numel() != torch.Size(shape).numel():
            had = tuple(found[name].shape) if name in found else "nothing"
            raise ConfigError(
                f"lpips.files: {name} should be of shape {shape}, found {had};"
                " give torchvision's VGG16 and the `lin` weights of LPIPS for vgg"
            )
    return found


def _our_name(name: str) -> str:
    """``lin0.model.1.weight`` of LPIPS is ``lin0`` here."""
    return name.split(".")[0] if name.startswith("lin") else name


def _tensors_in(file: WeightsFile) -> dict[str, Tensor]:
    try:
        data = read_bytes(storage_path(file.path))
    except OSError as error:
        raise ConfigError(f"lpips.files '{file.path}': cannot be read ({error})") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise ConfigError(
            f"lpips.files '{file.path}': has sha256 {digest}, not {file.sha256}; give the file that"
            " was meant, or its digest"
        )
    try:
        if file.path.endswith(".safetensors"):
            tensors: dict[str, Tensor] = safetensors.torch.load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"lpips.files '{file.path}': holds no tensors, or not only tensors ({reason})"
        ) from error
    return tensors
