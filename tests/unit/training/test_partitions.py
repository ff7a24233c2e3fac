"""State cut into ranges in one way and read back in another."""

import pytest
import torch

from histodiff.errors import ArtifactCorrupt
from histodiff.training.partitions import Fragment, read_parts, write_parts

SHAPES = {"a": 7, "b": 12, "c": 1, "d": 5}
FULL = {name: torch.randn(size) for name, size in SHAPES.items()}


def one_after_the_other(world_size: int) -> list[list[Fragment]]:
    """As ZeRO 1 and 2 cut: equal ranges of all parameters in a row."""
    total = sum(SHAPES.values())
    share = -(-total // world_size)
    ranks = []
    for rank in range(world_size):
        fragments, at = [], 0
        for name, size in SHAPES.items():
            low, high = max(at, rank * share), min(at + size, (rank + 1) * share)
            if low < high:
                fragments.append(Fragment(name, low - at, high - low, 0, low - rank * share))
            at += size
        ranks.append(fragments)
    return ranks


def each_by_itself(world_size: int) -> list[list[Fragment]]:
    """As ZeRO 3 cuts: equal ranges of every parameter, padded."""
    ranks = []
    for rank in range(world_size):
        fragments, offset = [], 0
        for name, size in SHAPES.items():
            share = -(-size // world_size)
            start = min(rank * share, size)
            fragments.append(Fragment(name, start, min(share, size - start), 0, offset))
            offset += share
        ranks.append(fragments)
    return ranks


def whole(world_size: int) -> list[list[Fragment]]:
    """As stage 0 has it: every rank has all."""
    fragments = [Fragment(n, 0, size, part, 0) for part, (n, size) in enumerate(SHAPES.items())]
    return [fragments] * world_size


def parts_of(fragments: list[Fragment], *, factor: float) -> list[torch.Tensor]:
    """Parts that hold ``factor`` times the full state."""
    parts = empty_parts(fragments)
    for fragment in fragments:
        values = FULL[fragment.parameter][fragment.start : fragment.start + fragment.numel]
        end = fragment.offset + fragment.numel
        parts[fragment.part][fragment.offset : end] = factor * values
    return parts


def empty_parts(fragments: list[Fragment]) -> list[torch.Tensor]:
    sizes = [0] * (1 + max(fragment.part for fragment in fragments))
    for fragment in fragments:
        sizes[fragment.part] = max(sizes[fragment.part], fragment.offset + fragment.numel)
    return [torch.zeros(size) for size in sizes]


@pytest.mark.parametrize("cut", [one_after_the_other, each_by_itself, whole])
@pytest.mark.parametrize("recut", [one_after_the_other, each_by_itself, whole])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 4), (4, 3)])
def test_state_recut_is_the_same_state(tmp_path, cut, recut, before, after):
    files = []
    for rank, fragments in enumerate(cut(before)):
        files.append(tmp_path / f"{rank}.safetensors")
        states = {"weight": parts_of(fragments, factor=1), "moment": parts_of(fragments, factor=3)}
        write_parts(files[-1], fragments, states)
    for fragments in recut(after):
        states = {"weight": empty_parts(fragments), "moment": empty_parts(fragments)}
        read_parts(files, fragments, states)
        for state, factor in (("weight", 1), ("moment", 3)):
            for found, expected in zip(
                states[state], parts_of(fragments, factor=factor), strict=True
            ):
                assert torch.equal(found, expected)


def test_state_with_a_missing_range_or_state_is_refused(tmp_path):
    for rank, fragments in enumerate(one_after_the_other(2)):
        write_parts(tmp_path / str(rank), fragments, {"weight": parts_of(fragments, factor=1)})
    [wanted] = whole(1)
    with pytest.raises(ArtifactCorrupt, match="are missing"):
        read_parts([tmp_path / "0"], wanted, {"weight": empty_parts(wanted)})
    with pytest.raises(ArtifactCorrupt, match="holds no 'moment'"):
        read_parts([tmp_path / "0", tmp_path / "1"], wanted, {"moment": empty_parts(wanted)})
