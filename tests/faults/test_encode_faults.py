"""``encode`` ends with the same bytes, whatever dies and however the server fails.

Twenty runs on Ceph's gateway and a Ray cluster of two nodes (``make test-faults``); each prints one
line.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from histodiff.storage import storage_path
from tests.support.disturbed_encode import (
    NODE_CPUS,
    DisturbedEncode,
    undisturbed,
    write_inputs,
)
from tests.support.faulting_proxy import FaultingProxy
from tests.support.ray_nodes import ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.ceph, pytest.mark.ray]

RUNS = 20
KILLS = 3
FAULT_RATE = 0.1
LATENCY_SECONDS = 0.2


@pytest.fixture(scope="module")
def disturbed(
    s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DisturbedEncode, str]]:
    folder = tmp_path_factory.mktemp("faults")
    root = storage_path("s3://histodiff-faults/runs")
    root.fs.mkdir("histodiff-faults")
    write_inputs(root, folder, slides=4, size_px=1024)
    content, num_shards = undisturbed(root)
    with FaultingProxy(s3_endpoint) as proxy:
        environment = {
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
        }
        with ray_nodes(environment, num_cpus=(NODE_CPUS, NODE_CPUS)) as cluster:
            runs = DisturbedEncode(
                root, cluster, proxy, environment=environment, folder=folder, num_shards=num_shards
            )
            yield runs, content


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(RUNS))
def test_encode_disturbed_at_random_ends_with_the_same_content(
    disturbed: tuple[DisturbedEncode, str], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, content = disturbed
    result = runs.run(seed, num_kills=KILLS, rate=FAULT_RATE, latency=LATENCY_SECONDS)
    with capsys.disabled():
        print(f"\n{result}")
        for error in result.errors:
            print(f"    ended with: {error[:160]}")
    assert result.problems == []
    assert result.content_sha256 == content
    assert sum(result.kills.values()) > 0
