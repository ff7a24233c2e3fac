"""How a network lies in storage: ``weights.safetensors`` beside a JSON description, no pickle.

The description names what it describes (``model``) and the number of its format, so that a folder
that holds something else is refused with a clear line.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from histodiff.errors import ArtifactCorrupt, ArtifactNotFound
from histodiff.storage import StoragePath, write_bytes

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
_FORMAT = 1


@dataclass(frozen=True)
class StoredModel:
    """A network as it was read: its tensors, and the description it was saved with."""

    state: dict[str, Tensor]
    description: dict[str, Any]


def save_model(
    path: StoragePath, *, model: str, state: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Writes the two files into ``path``; ``model`` says what kind of network it is."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path / WEIGHTS, safetensors.torch.save(tensors))
    record = {"model": model, "format": _FORMAT, **description}
    write_bytes(path / DESCRIPTION, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def read_model(path: StoragePath, *, model: str) -> StoredModel:
    """The network saved in ``path``.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is another kind of network, a newer format, or damaged.
    """
    record = read_description(path, model=model)
    try:
        data = (path / WEIGHTS).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{path}: holds no saved {model}") from error
    try:
        state = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ArtifactCorrupt(f"{path / WEIGHTS}: is damaged ({error}); write it anew") from error
    return StoredModel(state, record)


def read_description(path: StoragePath, *, model: str) -> dict[str, Any]:
    """What a network saved in ``path`` is described by; its weights are not read.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is another kind of network, a newer format, or damaged.
    """
    try:
        record: dict[str, Any] = json.loads((path / DESCRIPTION).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{path}: holds no saved {model}") from error
    except json.JSONDecodeError as error:
        raise ArtifactCorrupt(f"{path / DESCRIPTION}: is not JSON; write it anew") from error
    if record.get("model") != model or record.get("format") != _FORMAT:
        raise ArtifactCorrupt(
            f"{path}: holds a {record.get('model')} of format {record.get('format')},"
            f" expected a {model} of format {_FORMAT}"
        )
    return record


def fill(module: nn.Module, stored: StoredModel, *, path: StoragePath) -> None:
    """Puts the stored tensors into ``module``.

    Raises:
        ArtifactCorrupt: Names or shapes differ from what the description promises.
    """
    try:
        module.load_state_dict(stored.state, strict=True)
    except RuntimeError as error:
        raise ArtifactCorrupt(
            f"{path}: weights and {DESCRIPTION} disagree: {' '.join(str(error).split())}"
        ) from error


def num_parameters(module: nn.Module) -> int:
    """Trainable and frozen parameters of ``module``."""
    return sum(parameter.numel() for parameter in module.parameters())


def module_dtype(module: nn.Module) -> torch.dtype:
    """Type of the module's parameters."""
    return next(module.parameters()).dtype
