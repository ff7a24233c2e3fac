"""A Ray cluster of nodes that are processes of this machine, and may come and go."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray.cluster_utils import Cluster

from histodiff.cluster.environment import environment


def node(num_cpus: int) -> dict[str, object]:
    """Arguments of ``Cluster.add_node``."""
    return {
        "num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": 80 * 2**20,
    }  # fmt: skip


@contextmanager
def ray_nodes(values: Mapping[str, str], *, num_cpus: Sequence[int]) -> Iterator[Cluster]:
    """A cluster with a node for every number of CPUs, the first is its head.

    Its processes have these environment variables besides ours.
    """
    with environment(values):
        cluster = Cluster(initialize_head=True, head_node_args=node(num_cpus[0]))
        try:
            for count in num_cpus[1:]:
                cluster.add_node(**node(count))
            yield cluster
        finally:
            cluster.shutdown()
