"""Fixtures that every test may use: a site below a temporary folder, and quiet vendors."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from histodiff.cluster.site import NoRay, Site

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may fetch from the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors; threads that spin cost tenfold

settings.register_profile("histodiff", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("histodiff")  # make test-fuzz takes the other one


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Everything in this process, artifacts below the test's own folder."""
    return Site(root=str(tmp_path / "runs"), ray=NoRay(type="none"), device="cpu")


@pytest.fixture(autouse=True)
def _denormal_floats_are_kept() -> Iterator[None]:
    """Commands take denormal floats for zero in their process, which here is that of all tests."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_flush_denormal"):
        torch.set_flush_denormal(False)
