"""A driver of ``encode`` that is killed midway: ``python -m tests.support.dying_driver ROOT``."""

import sys
from functools import partial
from pathlib import Path

from histodiff.cluster.site import NoRay, Site
from histodiff.workflows.encode import command as workflow
from tests.support.encode_inputs import encode_config
from tests.support.encoders import DyingEncoder

if __name__ == "__main__":
    root = Path(sys.argv[1])
    workflow.ShardEncoder = partial(DyingEncoder, marker=root / "killed")
    site = Site(root=str(root), ray=NoRay(type="none"), device="cpu")
    workflow.encode(encode_config(), site)
