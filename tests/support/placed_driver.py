"""``encode`` with encoders that note where they work and wait for nodes to come and go.

``python -m tests.support.placed_driver ROOT ADDRESS NOTES FIRST``: root of the site, address of the
Ray cluster, folder of the notes, id of the cluster's first node.
"""

import sys
from functools import partial
from pathlib import Path

from histodiff.cluster.site import ClusterRay, Site
from histodiff.workflows.encode import command as workflow
from tests.support.encode_inputs import encode_config
from tests.support.encoders import PlacedEncoder, load_convolution_encoder


def main(root: str, address: str, notes: str, first: str) -> None:
    """Encodes with two encoders and a reader on a cluster that need not have room for them yet."""
    workflow.load_autoencoder = load_convolution_encoder
    workflow.ShardEncoder = partial(PlacedEncoder, folder=Path(notes), first=first)
    site = Site(
        root=root, device="cpu", encode_workers=2, reader_workers=1,
        ray=ClusterRay(type="cluster", address=address, autoscaling=True),
    )  # fmt: skip
    workflow.encode(encode_config(), site)


if __name__ == "__main__":
    main(*sys.argv[1:])
