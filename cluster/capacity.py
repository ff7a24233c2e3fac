"""Whether a Ray cluster can hold the actors of a command all at once, checked before any starts.

Actors that feed each other must all run: an encoder that holds the last CPU while it waits for a
reader that can get none would wait for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import ray

from histodiff.cluster.site import ClusterRay, RayConfig
from histodiff.errors import ConfigError


@dataclass(frozen=True)
class ActorResources:
    """What an actor reserves of a node; zero reserves nothing (one machine, shared as it comes)."""

    num_cpus: float = 0
    num_gpus: float = 0


@dataclass(frozen=True)
class Actors:
    """Actors that one key of the site asks for."""

    count: int
    each: ActorResources


def require_capacity(config: RayConfig, wanted: Mapping[str, Actors]) -> None:
    """Checks that the Ray this process is connected to has room for all actors at once.

    A cluster that grows by itself (``ray.autoscaling``) is not asked.

    Args:
        config: The Ray of the site.
        wanted: Actors by the key of the site that says how many.

    Raises:
        ConfigError: There is too little; names the keys, the counts and what there is.
    """
    if not isinstance(config, ClusterRay) or config.autoscaling:
        return
    there = ray.cluster_resources()
    for resource, attribute in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        have = float(there.get(resource, 0))
        asked = {k: a.count * float(getattr(a.each, attribute)) for k, a in wanted.items()}
        total = sum(asked.values())
        if total > have:
            counts = " and ".join(f"{key}={wanted[key].count}" for key in asked if asked[key])
            raise ConfigError(
                f"site: {counts} need {total:g} {resource}s at once, and the Ray cluster has"
                f" {have:g}; lower them, add nodes, or set ray.autoscaling=true if it grows by"
                " itself"
            )


def largest_node_cpus() -> float:
    """CPUs of the largest node of the Ray that this process is connected to: all a task can ask."""
    return float(max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]))
