from collections.abc import Iterator

import pytest
import torch

from histodiff.runtime.threads import use_threads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


def test_use_threads_takes_denormal_floats_for_zero() -> None:
    small = torch.full((64,), 1e-30)
    torch.set_flush_denormal(False)
    assert (small * 1e-10).any()
    use_threads(1)
    assert torch.get_num_threads() == 1
    assert not (small * 1e-10).any()
