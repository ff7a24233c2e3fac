"""A Ray cluster of nodes that are processes of this machine, and may come and go."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray.cluster_utils import Cluster


def node(num_cpus: int) -> dict[str, object]:
    """Arguments of ``Cluster.add_node``."""
    return {
        "num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": 80 * 2**20,
    }  # fmt: skip


@contextmanager
def ray_nodes(environment: Mapping[str, str], *, num_cpus: Sequence[int]) -> Iterator[Cluster]:
    """A cluster with a node for every number of CPUs, the first is its head.

    Its processes have this environment besides ours.
    """
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    cluster = Cluster(initialize_head=True, head_node_args=node(num_cpus[0]))
    try:
        for count in num_cpus[1:]:
            cluster.add_node(**node(count))
        yield cluster
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
