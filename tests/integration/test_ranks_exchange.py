"""What ranks say to each other: the same on all of them, and never run."""

import io
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed

from histodiff.cluster import gang
from histodiff.errors import ArtifactCorrupt, ConfigError, TrainingDiverged
from histodiff.models.autoencoder.principal_components import LinearMap, principal_components
from histodiff.training import ranks
from tests.support.ports import free_ports

VALUES = [{"text": "ä", "numbers": [1, 2.5, None, True]}, ["x" * 1000], ""]


class Mine:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (os.system, (f"touch {self.mark}",))


def in_a_group(rank: int, port: int, folder: Path, work: Callable[[int, Path], None]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    work(rank, folder)
    (folder / f"done-{rank}").touch()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def on_two_ranks(folder: Path, work: Callable[[int, Path], None]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    [port] = free_ports(1)
    processes = [
        context.Process(target=in_a_group, args=(rank, port, folder, work)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert {file.name for file in folder.glob("done-*")} == {"done-0", "done-1"}


def exchange(rank: int, folder: Path) -> None:
    for value in VALUES:
        assert ranks.broadcast(value if rank == 0 else None) == value
    assert ranks.broadcast_bytes(b"\x00\xff" if rank == 0 else b"") == b"\x00\xff"
    assert ranks.all_gather(VALUES[rank]) == VALUES[:2]


def attack(rank: int, folder: Path) -> None:
    """Rank 1 sends a pickle in the place of what is expected; rank 0 is who it is meant for."""
    if rank == 0:
        with pytest.raises(ValueError, match=r"Expecting value|codec"):
            ranks.all_gather("honest")
        return
    buffer = io.BytesIO()
    pickle.dump(Mine(folder / "ran"), buffer)
    data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    size = torch.tensor([len(data)])
    torch.distributed.all_gather([torch.empty_like(size) for _ in range(2)], size)
    torch.distributed.all_gather([torch.empty_like(data) for _ in range(2)], data)


def test_two_ranks_exchange_values_of_any_length(tmp_path: Path) -> None:
    on_two_ranks(tmp_path, exchange)


def test_pickle_of_another_rank_is_not_run(tmp_path: Path) -> None:
    on_two_ranks(tmp_path, attack)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sent", [None, b"junk", b"[]", b"\xff", b'{"message": "x"}'])
def test_what_a_stranger_puts_into_the_store_is_refused_and_not_run(tmp_path: Path, sent) -> None:
    store = torch.distributed.HashStore()
    store.set(gang._MADE, pickle.dumps(Mine(tmp_path / "ran")) if sent is None else sent)
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        gang._made_once(lambda: "spec", store, 1)
    assert not (tmp_path / "ran").exists()


def test_error_of_rank_0_is_the_same_on_others_as_far_as_a_message_makes_it() -> None:
    for error, expected in (
        (ArtifactCorrupt("shard 3 is missing"), ArtifactCorrupt),
        (TrainingDiverged(3, None), Exception),
    ):
        store = torch.distributed.HashStore()

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            gang._made_once(fail, store, 0)
        with pytest.raises(expected) as raised:
            gang._made_once(lambda: None, store, 1)
        assert str(raised.value) == str(error)


def test_linear_map_survives_its_bytes_to_the_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    linear = principal_components(pixels.transpose(0, 2, 3, 1), side=4, count=5, seed=0)
    again = LinearMap.from_bytes(linear.to_bytes())
    for name in ("mean_D", "components_CD", "variance_C"):
        assert np.array_equal(getattr(again, name), getattr(linear, name))
        assert getattr(again, name).dtype == getattr(linear, name).dtype
    assert again.channels == linear.channels
