"""``encode`` on a cluster to which a node comes during the run, does its share, and is killed."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from histodiff.artifacts import open_artifact
from histodiff.cluster.session import code_environment
from histodiff.cluster.site import NoRay, Site
from histodiff.storage import storage_path
from histodiff.workflows.encode import command as workflow
from tests.support.encode_inputs import encode_config, write_inputs
from tests.support.encoders import PlacedEncoder, done_on, load_convolution_encoder
from tests.support.ray_nodes import node, ray_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_encode_node_that_joins_does_shards_and_its_loss_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "load_autoencoder", load_convolution_encoder)
    for name in ("whole", "shared"):
        write_inputs(storage_path(tmp_path / name), tmp_path / "images")
    alone = Site(root=str(tmp_path / "whole"), ray=NoRay(type="none"), device="cpu")
    expected = workflow.encode(encode_config(), alone).manifest

    notes, shared = tmp_path / "notes", tmp_path / "shared"
    notes.mkdir()
    with ray_nodes(code_environment(), num_cpus=(2,)) as cluster:
        head = cluster.head_node.node_id
        arguments = [str(shared), cluster.address, str(notes), head]
        with (
            (tmp_path / "said.txt").open("wb") as said,
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.placed_driver", *arguments],
                stdout=said, stderr=subprocess.STDOUT,
            ) as driver,
        ):  # fmt: skip
            try:
                wait_for_shards(head, notes, driver)
                joined = cluster.add_node(**node(1))
                wait_for_shards(joined.node_id, notes, driver)
                cluster.remove_node(joined, allow_graceful=False)
                (notes / "left").touch()
                driver.wait()
            finally:
                driver.kill()
        assert driver.returncode == 0, (tmp_path / "said.txt").read_text()

    by_joined, by_head = done_on(joined.node_id, notes), done_on(head, notes)
    assert len(by_joined) == PlacedEncoder.EACH
    assert sorted(map(int, by_joined + by_head)) == list(range(expected.contents["shards"]))
    manifest = open_artifact(storage_path(shared), encode_config().output).manifest
    assert manifest.content_sha256 == expected.content_sha256
    assert manifest.files == expected.files


def wait_for_shards(node_id: str, notes: Path, driver: "subprocess.Popen[bytes]") -> None:
    """Returns when the node has its shards done; the test's time limit bounds it."""
    pause = Event()
    while len(done_on(node_id, notes)) < PlacedEncoder.EACH:
        assert driver.poll() is None, "the run ended without the node"
        pause.wait(0.05)
