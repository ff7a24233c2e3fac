"""Ranks that torchrun starts: what is made once is made by rank 0, and all have it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed

from histodiff.cluster import gang
from histodiff.errors import ArtifactCorrupt
from histodiff.latents import LatentStore, mixture_whitening
from histodiff.storage import storage_path
from tests.support.gang_processes import Gang, exit_codes
from tests.support.pretraining import finished_store, tiny_config


def test_pretrain_two_processes_have_one_whitening_that_one_of_them_computed(tmp_path: Path):
    finished_store(tmp_path)
    store = LatentStore.open(storage_path(tmp_path / "latents/tiny/1"))
    expected = mixture_whitening([store], [1.0]).to_json()
    both = Gang(tmp_path, tiny_config(train={"images": 32}), world_size=2)
    assert exit_codes(both) == [0, 0]
    assert (both.notes / "whitened-by.txt").read_text() == "0\n"
    for rank in (0, 1):
        assert (both.notes / f"whitening-{rank}.json").read_text() == expected


def test_gang_error_of_rank_0_before_there_is_a_group_ends_the_others_with_the_same():
    def fail() -> object:
        raise ArtifactCorrupt("shard 3 is missing")

    store = torch.distributed.HashStore()
    with ThreadPoolExecutor(2) as threads:
        ranks = [threads.submit(gang._made_once, fail, store, rank) for rank in (1, 0)]
    for rank in ranks:
        with pytest.raises(ArtifactCorrupt, match="shard 3 is missing"):
            rank.result()
