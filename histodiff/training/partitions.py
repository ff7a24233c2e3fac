"""Training state by parameter: written by the ranks that own it, read back under any partition.

ZeRO gives a rank ranges of the parameters, laid out in flat *parts*. A ``Fragment`` says which
range of which parameter lies where. A rank writes its parts whole (weights, both moments, every
average) into one safetensors file, with its fragments in the header; a rank of any other gang reads
the ranges that it needs from the files that have them. So a checkpoint belongs to no world size and
no ZeRO stage, is exact, and holds no pickle.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from histodiff.errors import ArtifactCorrupt

_FRAGMENTS = "fragments"

Parts = Sequence[torch.Tensor]
"""Tensors of a rank, laid out as the parts of the weights."""


@dataclass(frozen=True)
class Fragment:
    """A range of a flattened parameter, and where it lies in the parts of a rank."""

    parameter: str
    start: int
    """First element in the parameter."""
    numel: int
    part: int
    """Number of the part."""
    offset: int
    """First element in the flattened part."""


def whole_fragments(names_and_parameters: Iterable[tuple[str, torch.Tensor]]) -> list[Fragment]:
    """Every parameter as a part of its own: nothing is partitioned."""
    return [
        Fragment(name, start=0, numel=parameter.numel(), part=part, offset=0)
        for part, (name, parameter) in enumerate(names_and_parameters)
    ]


def write_parts(file: Path, fragments: Sequence[Fragment], states: Mapping[str, Parts]) -> None:
    """Writes the parts of every state of one rank.

    Args:
        file: The safetensors file.
        fragments: What the parts hold.
        states: Parts by the name of the state; all laid out alike.
    """
    tensors = {
        _key(state, number): part.detach().to("cpu", copy=True).reshape(-1)
        for state, parts in states.items()
        for number, part in enumerate(parts)
    }
    header = json.dumps([astuple(fragment) for fragment in fragments])
    save_file(tensors, file, metadata={_FRAGMENTS: header})


def read_parts(
    files: Sequence[Path], fragments: Sequence[Fragment], states: Mapping[str, Parts]
) -> None:
    """Fills the parts of ``states`` in place from what any ranks have written.

    Args:
        files: Files of ``write_parts``; together they hold every range that is needed.
        fragments: What the parts of this rank hold.
        states: The parts to fill, contiguous, by the name of the state.

    Raises:
        ArtifactCorrupt: A range or a state is missing.
    """
    with ExitStack() as stack, torch.no_grad():
        sources = _sources([stack.enter_context(safe_open(file, framework="pt")) for file in files])
        for fragment in fragments:
            for piece in _pieces(fragment, sources[fragment.parameter]):
                for state, parts in states.items():
                    target = parts[fragment.part].view(-1)
                    target[piece.target : piece.target + piece.numel].copy_(piece.read(state))


class _Source(NamedTuple):
    """A fragment in an open file."""

    file: Any
    fragment: Fragment


class _Piece(NamedTuple):
    """A range that a source and a wanted fragment share."""

    source: _Source
    origin: int
    """First element in the flattened part of the source."""
    target: int
    """First element in the flattened part to fill."""
    numel: int

    def read(self, state: str) -> torch.Tensor:
        """The elements, read from the file."""
        key = _key(state, self.source.fragment.part)
        if key not in self.source.file.keys():  # noqa: SIM118 - safe_open is no mapping
            raise ArtifactCorrupt(f"checkpoint: holds no {state!r}")
        stored = self.source.file.get_slice(key)
        elements: torch.Tensor = stored[self.origin : self.origin + self.numel]
        return elements


def _sources(files: Sequence[Any]) -> defaultdict[str, list[_Source]]:
    found: defaultdict[str, list[_Source]] = defaultdict(list)
    for file in files:
        for values in json.loads(file.metadata()[_FRAGMENTS]):
            fragment = Fragment(*values)
            found[fragment.parameter].append(_Source(file, fragment))
    return found


def _pieces(wanted: Fragment, sources: Sequence[_Source]) -> Iterator[_Piece]:
    """Ranges of the sources that make up ``wanted``, in order and without overlap."""
    at, end = wanted.start, wanted.start + wanted.numel
    for source in sorted(sources, key=lambda source: source.fragment.start):
        held = source.fragment
        stop = min(end, held.start + held.numel)
        if held.start <= at < stop:
            yield _Piece(
                source,
                origin=held.offset + at - held.start,
                target=wanted.offset + at - wanted.start,
                numel=stop - at,
            )
            at = stop
    if at != end:
        raise ArtifactCorrupt(
            f"checkpoint: elements {at} to {end} of {wanted.parameter} are missing"
        )


def _key(state: str, number: int) -> str:
    return f"{state}/{number:05d}"
