"""Real processes that train an autoencoder, are killed or told to go, and are started again."""

import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.cluster.site import Site
from histodiff.storage import storage_path
from tests.support.autoencoder_training import BATCH, Processes, exit_codes, train_config
from tests.support.labelled_chain import make_patches

END_AT = 17 * BATCH
"""Seven steps after the checkpoint of step 10."""
STAGE = {"zero_stage": 1}

pytestmark = pytest.mark.slow


@pytest.fixture
def root(site: Site, tmp_path: Path) -> Path:
    make_patches(site, tmp_path / "images")
    return Path(site.root)


def made(root: Path, name: str) -> Artifact:
    return open_artifact(storage_path(root), Reference.of(Kind.AUTOENCODERS, name, "v1"))


def losses(root: Path, name: str) -> list[float]:
    return pq.read_table(Path(made(root, name).path / "losses.parquet"))["loss"].to_pylist()


@pytest.mark.parametrize("world_size", [1, 2])
def test_autoencoder_killed_and_started_again_has_the_bytes_of_an_undisturbed_one(
    root: Path, world_size: int
) -> None:
    whole, broken = (train_config(name, train=STAGE) for name in ("whole", "broken"))
    assert exit_codes(Processes(root, whole, world_size)) == [0] * world_size
    killed = Processes(root, broken, world_size, signal.SIGKILL, END_AT)
    assert exit_codes(killed)[-1] == -signal.SIGKILL
    checkpoints = root / "autoencoders/broken/v1/checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000010"]
    assert exit_codes(Processes(root, broken, world_size)) == [0] * world_size
    found, expected = (made(root, name).manifest for name in ("broken", "whole"))
    assert found.content_sha256 == expected.content_sha256


def test_autoencoder_told_to_go_saves_and_one_rank_goes_on_where_two_were(root: Path) -> None:
    config = train_config("told", train=STAGE)
    told = Processes(root, config, 2, signal.SIGTERM, END_AT)
    assert exit_codes(told) == [143, 143]
    newest = root / "autoencoders/told/v1/checkpoints/step-00000018/complete.json"
    assert newest.exists()
    assert exit_codes(Processes(root, config, 1)) == [0]
    assert exit_codes(Processes(root, train_config("alone", train=STAGE), 1)) == [0]
    assert losses(root, "told") == pytest.approx(losses(root, "alone"), rel=1e-4)
