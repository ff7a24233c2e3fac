"""Weights of others for a timm backbone: all of them, or none and the reason.

A checkpoint of a training holds more than a backbone: teachers and students, heads, optimizers, and
prefixes of whatever wrapped the network. Prefixes that are known are taken off by name, timm's own
conversion of the architecture is applied (position embeddings of other sizes, DINOv2's names), and
then every parameter of the backbone must be there, and nothing else but heads and parameters of
pretext tasks.
"""

import io
import logging
import sys
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from histodiff.errors import ConfigError

_log = logging.getLogger(__name__)

_WRAPPERS = frozenset(
    (
        "_orig_mod", "backbone", "encoder", "image_encoder", "model", "module", "net", "network",
        "student", "target_encoder", "teacher", "trunk", "vision_encoder", "visual",
    )
)  # fmt: skip
"""First parts of parameter names that only say what the backbone was wrapped in."""
_PRETEXT = frozenset(("mask_token", "masked_embed"))
"""Parameters of a pretext task that no backbone uses: DINOv2's and iBOT's masked patches."""
_NAMED = 5
"""Names that an error shows."""


def state_in_bytes(data: bytes, *, key: str | None, source: str) -> dict[str, Tensor]:
    """The parameters in a file: safetensors, or a pickle of tensors (nothing in it is run).

    Args:
        data: Bytes of the file.
        key: Entry of a training's checkpoint, such as `teacher`; None where there is one choice.
        source: What the file is called, for errors.

    Raises:
        ConfigError: It is neither, or holds several networks and ``key`` names none of them.
    """
    try:
        found: Any = safetensors.torch.load(data)
    except safetensors.SafetensorError:
        try:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds, on foreign bytes
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"{source}: is neither a safetensors file nor a checkpoint of plain tensors"
                f" ({reason}); save its state dict alone"
            ) from error
    return _network(found, key=key, source=source)


def load_backbone(
    backbone: nn.Module, state: Mapping[str, Tensor], *, prefix: str | None, source: str
) -> None:
    """Fills ``backbone``; its head is filled where one of the same shape is there.

    Args:
        backbone: A timm model.
        state: Parameters by name, perhaps with prefixes.
        prefix: What the names of the backbone begin with; None finds it out.
        source: What the weights are called, for errors.

    Raises:
        ConfigError: Parameters are missing, left over, or of other shapes. The backbone is as it
            was.
    """
    wanted = backbone.state_dict()
    heads = _heads(backbone)
    used = _best_prefix(state, wanted, heads, source=source) if prefix is None else prefix
    own = {name.removeprefix(used): each for name, each in state.items() if name.startswith(used)}
    others = len(state) - len(own)
    if others:
        _log.info("%s: %d tensors do not begin with '%s' and are left out", source, others, used)
    own = _converted(backbone, own, source=source)
    own = {name: each for name, each in own.items() if name not in _PRETEXT}
    head = {name for name in wanted if name.split(".")[0] in heads}
    fits = all(name in own and own[name].shape == wanted[name].shape for name in head)
    if not head or not fits:
        own = {name: each for name, each in own.items() if name.split(".")[0] not in heads}
        own |= {name: wanted[name] for name in head}
    differences = _differences(own, wanted)
    if differences:
        begun = f"names were taken to begin with '{used}'" if used else "names have no prefix"
        raise ConfigError(
            f"{source}: does not fit the backbone: {'; '.join(differences)} ({begun}); check"
            " classifier.model, classifier.arguments (such as init_values, reg_tokens) and"
            " pretrained.prefix"
        )
    backbone.load_state_dict(own, strict=True)


def _network(found: Any, *, key: str | None, source: str) -> dict[str, Tensor]:
    """The entry of a checkpoint that is a network."""
    if not isinstance(found, Mapping):
        raise ConfigError(f"{source}: holds no parameters by name, but a {type(found).__name__}")
    networks = [name for name, each in found.items() if isinstance(each, Mapping)]
    networks = [name for name in networks if any(map(torch.is_tensor, found[name].values()))]
    if key is not None:
        if key not in networks:
            raise ConfigError(f"{source}: has no network `{key}`; it has {_listed(networks)}")
        return _network(found[key], key=None, source=source)
    tensors = {str(name): each for name, each in found.items() if torch.is_tensor(each)}
    if tensors:
        return tensors
    if len(networks) != 1:
        raise ConfigError(
            f"{source}: holds {len(networks) or 'no'} networks ({_listed(networks)}); say which"
            " with pretrained.key"
        )
    return _network(found[networks[0]], key=None, source=source)


def _heads(backbone: nn.Module) -> frozenset[str]:
    """First parts of the names of the head."""
    settings: Any = backbone.pretrained_cfg
    named = settings.get("classifier") or ()
    named = (named,) if isinstance(named, str) else named
    return frozenset(name.split(".")[0] for name in named)


def _best_prefix(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    heads: frozenset[str],
    *,
    source: str,
) -> str:
    """The prefix under which most of the backbone's names are found; the shortest of equals."""
    body = {name for name in wanted if name.split(".")[0] not in heads}
    hits = {
        prefix: len({name.removeprefix(prefix) for name in state if name.startswith(prefix)} & body)
        for prefix in {"", *(each for name in state for each in _prefixes(name))}
    }
    most = max(hits.values())
    best = sorted((prefix for prefix, count in hits.items() if count == most), key=len)
    if most and len(best) > 1:
        raise ConfigError(
            f"{source}: holds the network {len(best)} times, under {_listed(best)}; say which with"
            " pretrained.prefix"
        )
    return best[0]


def _prefixes(name: str) -> list[str]:
    """Prefixes of a name that are made of wrappers alone."""
    found = []
    for part in accumulate(name.split(".")[:-1], lambda left, right: f"{left}.{right}"):
        if part.rsplit(".", 1)[-1] not in _WRAPPERS:
            break
        found.append(f"{part}.")
    return found


def _converted(backbone: nn.Module, state: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """What timm makes of the names and shapes for this architecture."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: dict[str, Tensor] = convert(state, backbone)
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"{source}: timm cannot convert it to this backbone ({type(error).__name__}: {error});"
            " check classifier.model"
        ) from error
    return converted


def _differences(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in own]
    foreign = [name for name in own if name not in wanted]
    reshaped = [
        f"{name} {tuple(own[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in own and own[name].shape != wanted[name].shape
    ]
    parts = (
        (missing, f"of {len(wanted)} parameters {len(missing)} are missing"),
        (foreign, f"{len(foreign)} are not its own"),
        (reshaped, f"{len(reshaped)} have other shapes"),
    )
    return [f"{what} ({_listed(names)})" for names, what in parts if names]


def _listed(names: Iterable[str]) -> str:
    shown = [name or "no prefix" for name in names]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return (", ".join(shown[:_NAMED]) or "none") + more
