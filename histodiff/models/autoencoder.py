"""The autoencoder: diffusers' ``AutoencoderKL`` behind pixels in and raw latents out.

Raw latents carry no scaling factor: whitening belongs to the denoiser. The encoder and the decoder
have a digest each, because latents are bound to the encoder alone. A saved autoencoder is a folder
that ``AutoencoderKL.from_pretrained`` reads, plus ``autoencoder.json`` with the digests. Legend:
B batch, C channels, H height, W width.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import safetensors.torch
import torch
from diffusers import AutoencoderKL
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from pydantic import Field, model_validator
from torch import Tensor, nn

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError
from histodiff.kernels.attention import install_attention
from histodiff.models.pretrained import class_name, fetched_folder, loading_failed
from histodiff.storage import StoragePath, local_copy, read_bytes, upload_tree, write_bytes

AutoencoderNetwork: TypeAlias = AutoencoderKL
"""The network itself, for those that train it."""

_ENCODER = ("encoder.", "quant_conv.")
_DECODER = ("decoder.", "post_quant_conv.")
_DIGESTS = "autoencoder.json"
_FORMAT = 1
_METADATA = {"format": "pt"}


class AutoencoderArchitecture(Config):
    """Size and shape of a KL autoencoder; the downsampling is ``2 ** (levels - 1)``."""

    channels: tuple[int, ...] = Field(min_length=2)
    """Channels of each level, from full resolution downwards, halving it each time."""
    latent_channels: int = Field(ge=1)
    """Channels of a latent."""
    blocks_per_level: int = Field(default=2, ge=1)
    """Residual blocks of each level in the encoder (one more in the decoder)."""
    norm_groups: int = Field(default=32, ge=1)
    """Groups of the group normalisation."""
    mid_attention: bool = True
    """Self-attention at the lowest resolution."""

    @model_validator(mode="after")
    def _divisible(self) -> "AutoencoderArchitecture":
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(
                    f"channels {width} must be a multiple of norm_groups ({self.norm_groups})"
                )
        return self


AutoencoderPreset = Literal["tiny", "small", "paper"]


def autoencoder_preset(name: AutoencoderPreset) -> AutoencoderArchitecture:
    """An architecture of a known size; millions of parameters in brackets.

    `tiny` (0.9, KL-f8 for a CPU), `small` (3.8, KL-f8), `paper` (55, KL-f4 with three channels, as
    HistoDiffusion's).
    """
    match name:
        case "tiny":
            return AutoencoderArchitecture(
                channels=(16, 32, 64, 64),
                latent_channels=4,
                blocks_per_level=1,
                norm_groups=8,
                mid_attention=False,
            )
        case "small":
            return AutoencoderArchitecture(
                channels=(32, 64, 128, 128),
                latent_channels=4,
                blocks_per_level=1,
                norm_groups=8,
                mid_attention=False,
            )
        case "paper":
            return AutoencoderArchitecture(channels=(128, 256, 512), latent_channels=3)


class LatentMoments(NamedTuple):
    """Posterior of raw latents: mean and standard deviation, fp32, BCHW each."""

    mean: Tensor
    std: Tensor


class Autoencoder:
    """Pixels to raw latents and back. Not trained through this class; see ``network``."""

    def __init__(self, network: AutoencoderKL, *, device: str = "cpu") -> None:
        self.encoder_sha256 = weights_sha256(network, _ENCODER)
        """Digest of the encoder's weights."""
        self.decoder_sha256 = weights_sha256(network, _DECODER)
        """Digest of the decoder's weights."""
        network = network.to(device, memory_format=torch.channels_last)
        self.network: AutoencoderKL = network.eval().requires_grad_(requires_grad=False)
        install_attention(self.network, "auto", device=torch.device(device))

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along one side."""
        factor: int = 2 ** (len(self.network.config.block_out_channels) - 1)
        return factor

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        channels: int = self.network.config.latent_channels
        return channels

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> LatentMoments:
        """Posterior of raw latents of uint8 pixels.

        Raises:
            ConfigError: The side of the pixels is no multiple of ``downsampling``.
        """
        height, width = pixels_BCHW.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ConfigError(
                f"patches of {width}x{height} px are no multiple of the autoencoder's downsampling"
                f" ({self.downsampling}); choose another patch_px"
            )
        device, dtype = self.network.device, self.network.dtype
        # pixels uint8 BCHW -> raw latents fp32 BCHW
        posterior = self.network.encode(signed_pixels(pixels_BCHW.to(device)).to(dtype)).latent_dist
        return LatentMoments(posterior.mean.float(), posterior.std.float())

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """uint8 pixels, BCHW, of raw latents."""
        device, dtype = self.network.device, self.network.dtype
        # raw latents BCHW -> pixels uint8 BCHW
        return unsigned_pixels(self.network.decode(latents_BCHW.to(device, dtype)).sample)


def signed_pixels(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return pixels.float() / 127.5 - 1


def unsigned_pixels(values: Tensor) -> Tensor:
    """Float -1..1 -> uint8 0..255, rounded and clipped."""
    return ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def create_network(architecture: AutoencoderArchitecture, *, device: str = "cpu") -> AutoencoderKL:
    """An untrained ``AutoencoderKL``, channels last in memory (twice as fast on a CPU)."""
    levels = len(architecture.channels)
    network = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.channels,
        layers_per_block=architecture.blocks_per_level,
        latent_channels=architecture.latent_channels,
        norm_num_groups=architecture.norm_groups,
        mid_block_add_attention=architecture.mid_attention,
        scaling_factor=1.0,
    )
    install_attention(network, "auto", device=torch.device(device))
    return network.to(device, memory_format=torch.channels_last)


def weights_sha256(network: nn.Module, prefixes: tuple[str, ...]) -> str:
    """SHA-256 over name, shape and fp32 bytes of the weights under ``prefixes``, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.startswith(prefixes):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def import_autoencoder(
    source: str, *, revision: str | None = None, subfolder: str | None = None, device: str = "cpu"
) -> Autoencoder:
    """The ``AutoencoderKL`` in a local folder or of a repository on the Hugging Face hub.

    Args:
        source: A folder, or a hub id such as ``stabilityai/sd-vae-ft-mse``.
        revision: Commit, tag or branch; required for a hub id, meaningless for a folder.
        subfolder: Folder below ``source``, such as ``vae``.
        device: Where it will run.

    Raises:
        ConfigError: It cannot be loaded; says what to change.
    """
    folder = fetched_folder(source, revision, subfolder, field="mode")
    found = class_name(folder)
    if found != "AutoencoderKL":
        raise ConfigError(
            f"mode.source '{source}': holds {found}, not an AutoencoderKL;"
            " for a whole pipeline give mode.subfolder: vae"
        )
    try:
        network = AutoencoderKL.from_pretrained(
            str(folder), use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise loading_failed(source, "an AutoencoderKL", error, field="mode") from error
    return Autoencoder(network, device=device)


def save_autoencoder(path: StoragePath, autoencoder: Autoencoder) -> None:
    """Writes the autoencoder into the folder ``path``, readable by diffusers too."""
    weights = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in autoencoder.network.state_dict().items()
    }
    with tempfile.TemporaryDirectory(prefix="histodiff-") as scratch:
        autoencoder.network.save_config(scratch)
        upload_tree(Path(scratch), path)
    write_bytes(path / SAFETENSORS_WEIGHTS_NAME, safetensors.torch.save(weights, _METADATA))
    record = {
        "format": _FORMAT,
        "encoder_sha256": autoencoder.encoder_sha256,
        "decoder_sha256": autoencoder.decoder_sha256,
        "downsampling": autoencoder.downsampling,
        "latent_channels": autoencoder.latent_channels,
    }
    write_bytes(path / _DIGESTS, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def load_autoencoder(path: StoragePath, *, device: str) -> Autoencoder:
    """The autoencoder saved in ``path``, its digests checked.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: Weights and digests disagree.
    """
    try:
        record = json.loads(read_bytes(path / _DIGESTS))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{path}: holds no saved autoencoder") from error
    with local_copy(path) as folder:
        try:
            network = AutoencoderKL.from_pretrained(
                str(folder), use_safetensors=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError) as error:
            raise ArtifactCorrupt(f"{path}: {' '.join(str(error).split())[:300]}") from error
        autoencoder = Autoencoder(network, device=device)
    found = (autoencoder.encoder_sha256, autoencoder.decoder_sha256)
    if found != (record["encoder_sha256"], record["decoder_sha256"]):
        raise ArtifactCorrupt(f"{path}: the weights do not match {_DIGESTS}; write it anew")
    return autoencoder
