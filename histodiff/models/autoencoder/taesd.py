"""The TAESD family as its repository publishes it: two state dicts of plain ``nn.Sequential``s.

TAESD, TAESD3 and TAEF1 are diffusers' ``AutoencoderTiny``; TAEF2 (a pool with GroupNorm in its
middle blocks) and TAESana (other widths, a stem) are not, and become ``TaesdAutoencoder``, which is
made of the layers that the names and shapes of the weights tell. The networks see pixels in 0..1,
everybody else in -1..1. Architecture: github.com/madebyollin/taesd (MIT). Legend: B batch,
C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderTiny
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

Layer = Mapping[str, Any]
"""One layer of a Sequential: its ``type``, and what it needs; JSON."""
State = Mapping[str, Tensor]

_LIMIT = 3.0
"""Latents are squashed to -3..3 before they are decoded."""
_POOL_FACTOR, _POOL_GROUPS = 4, 4


class TaesdLayers(NamedTuple):
    """The two halves, layer by layer."""

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: what the encoder's last convolution gives."""
        channels: int = self.encoder[-1]["outputs"]
        return channels

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along one side."""
        strides = [layer["stride"] for layer in self.encoder if layer["type"] == "conv"]
        factor: int = 2 ** sum(stride == 2 for stride in strides)
        return factor


class TaesdAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A deterministic autoencoder of the TAESD family.

    Args:
        encoder_layers: Pixels in 0..1 to latents.
        decoder_layers: Latents to pixels in 0..1.
        latent_channels: Channels of a latent.
        downsampling: Pixels per latent position along one side.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        encoder_layers: Sequence[Layer],
        decoder_layers: Sequence[Layer],
        latent_channels: int,
        downsampling: int,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*map(_module, encoder_layers))
        self.decoder = nn.Sequential(*map(_module, decoder_layers))

    def encode(self, pixels_BCHW: Tensor) -> AutoencoderTinyOutput:
        """``latents`` of pixels in -1..1."""
        return AutoencoderTinyOutput(latents=self.encoder((pixels_BCHW + 1) / 2))

    def decode(self, latents_BCHW: Tensor) -> DecoderOutput:
        """``sample``: pixels in -1..1."""
        return DecoderOutput(sample=self.decoder(latents_BCHW) * 2 - 1)


class _Clamp(nn.Module):
    def forward(self, latents_BCHW: Tensor) -> Tensor:
        return torch.tanh(latents_BCHW / _LIMIT) * _LIMIT


class _Block(nn.Module):
    """Three convolutions beside a way around them; with a pool, which is added to what comes in."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )  # fmt: skip
        same = inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pool: nn.Sequential | None = None
        if pool:
            wide = _POOL_FACTOR * inputs
            self.pool = nn.Sequential(
                nn.Conv2d(inputs, wide, 1, bias=False), nn.GroupNorm(_POOL_GROUPS, wide),
                nn.ReLU(), nn.Conv2d(wide, inputs, 1, bias=False),
            )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.pool is not None:
            x_BCHW = x_BCHW + self.pool(x_BCHW)
        return torch.relu(self.conv(x_BCHW) + self.skip(x_BCHW))


def _module(layer: Layer) -> nn.Module:
    match layer["type"]:
        case "clamp":
            return _Clamp()
        case "relu":
            return nn.ReLU()
        case "upsample":
            return nn.Upsample(scale_factor=2)
        case "block":
            return _Block(layer["inputs"], layer["outputs"], pool=layer["pool"])
        case "conv":
            return nn.Conv2d(
                layer["inputs"], layer["outputs"], 3,
                stride=layer["stride"], padding=1, bias=layer["bias"],
            )  # fmt: skip
    raise ValueError(f"a layer of the TAESD family is not of type {layer['type']}")


def taesd_network(encoder: State, decoder: State) -> AutoencoderTiny | TaesdAutoencoder:
    """The network with these weights: an ``AutoencoderTiny`` where diffusers has what it needs.

    Raises:
        ValueError: They are not of the TAESD family; says where they differ.
    """
    layers = TaesdLayers(_encoder_layers(encoder), _decoder_layers(decoder))
    names = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    names |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    weights = {name: tensor.float() for name, tensor in names.items()}
    tiny = _as_tiny(layers, weights)
    if tiny is not None:
        return tiny
    network = TaesdAutoencoder(
        encoder_layers=layers.encoder,
        decoder_layers=layers.decoder,
        latent_channels=layers.latent_channels,
        downsampling=layers.downsampling,
    )
    _fill(network, weights)
    return network


def _as_tiny(layers: TaesdLayers, weights: State) -> AutoencoderTiny | None:
    """The same as diffusers' network; None where it has no such layers or widths."""
    widths = {layer["outputs"] for half in layers for layer in half[:-1] if "outputs" in layer}
    pooled = any(layer.get("pool") for half in layers for layer in half)
    if len(widths) > 1 or pooled or any(layer["type"] == "relu" for layer in layers.encoder):
        return None
    counts = [_blocks_per_level(half) for half in layers]
    [width] = widths
    network = AutoencoderTiny(
        encoder_block_out_channels=(width,) * len(counts[0]),
        decoder_block_out_channels=(width,) * len(counts[1]),
        num_encoder_blocks=counts[0],
        num_decoder_blocks=counts[1],
        latent_channels=layers.latent_channels,
    )
    _fill(network, dict(_tiny_name(name, tensor) for name, tensor in weights.items()))
    return network


def _blocks_per_level(half: Sequence[Layer]) -> tuple[int, ...]:
    """Blocks behind each convolution but the last."""
    counts: list[int] = []
    for layer in half[:-1]:
        if layer["type"] == "conv":
            counts.append(0)
        elif layer["type"] == "block":
            counts[-1] += 1
    return tuple(counts)


def _tiny_name(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A name in diffusers' words, where the decoder's clamp is no layer and takes no number."""
    half, number, rest = name.split(".", 2)
    return f"{half}.layers.{int(number) - (half == 'decoder')}.{rest}", tensor


def _fill(network: nn.Module, weights: State) -> None:
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _encoder_layers(state: State) -> tuple[Layer, ...]:
    """A number without weights is a ReLU; convolutions before one, or without a bias, halve."""
    numbered = _numbered(state)
    layers: list[Layer] = []
    for number, found in enumerate(numbered):
        if found is None:
            layers.append({"type": "relu"})
            continue
        layer = _layer(found)
        if layer["type"] == "conv":
            before_relu = number + 1 < len(numbered) and numbered[number + 1] is None
            layer["stride"] = 2 if before_relu or not layer["bias"] else 1
        layers.append(layer)
    return tuple(layers)


def _decoder_layers(state: State) -> tuple[Layer, ...]:
    """Numbers without weights: 0 squashes latents, 2 is a ReLU, the others double the side."""
    without = {0: "clamp", 2: "relu"}
    return tuple(
        {"type": without.get(number, "upsample")} if found is None else _layer(found)
        for number, found in enumerate(_numbered(state))
    )


def _numbered(state: State) -> list[dict[str, tuple[int, ...]] | None]:
    """Shapes of the weights of every layer by its number; None where a number has none."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, tensor in state.items():
        number, _, rest = name.partition(".")
        if not number.isdecimal() or not isinstance(tensor, Tensor):
            raise ValueError(f"'{name}' is no weight of a numbered layer")
        found.setdefault(int(number), {})[rest] = tuple(tensor.shape)
    if not found or max(found) > 2 * len(found) + 1:
        raise ValueError("it has no layers, or numbers without any")
    return [found.get(number) for number in range(max(found) + 1)]


def _layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if "conv.0.weight" in shapes:
        outputs, inputs = shapes["conv.0.weight"][:2]
        pool = "pool.0.weight" in shapes
        return {"type": "block", "inputs": inputs, "outputs": outputs, "pool": pool}
    if len(shapes.get("weight", ())) != 4:
        raise ValueError(f"a layer with the weights {', '.join(shapes)} is not known")
    outputs, inputs = shapes["weight"][:2]
    bias = "bias" in shapes
    return {"type": "conv", "inputs": inputs, "outputs": outputs, "stride": 1, "bias": bias}
