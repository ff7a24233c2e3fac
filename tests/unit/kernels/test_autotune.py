"""What is reported is what runs: held against the operations of the network's own forward pass."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from histodiff.errors import ConfigError
from histodiff.kernels.autotune import AttentionUse, choose_attention, dispatched_operations
from histodiff.models.cost import network_cost
from histodiff.models.unet import UNetConfig, create_unet

CPU = torch.device("cpu")
CONFIG = UNetConfig(
    type="unet",
    channels=(16, 32),
    attention_levels=(False, True),
    blocks_per_level=1,
    head_dim=8,
    norm_groups=8,
)


def small_unet():
    torch.manual_seed(0)
    return create_unet(CONFIG, latent_shape=(4, 8, 8), device=CPU)


def forward(unet):
    return unet(torch.zeros((1, 4, 8, 8)), torch.tensor([1.0])).sample


def small_use(dtype=torch.float32):
    shapes = network_cost(CONFIG, (4, 8, 8)).attention
    return AttentionUse(shapes=shapes, batch=2, dtype=dtype, device=CPU)


class Spy(TorchDispatchMode):
    """Counts dispatched operations; an own one, so that the oracle shares nothing."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.name()] += 1
        return func(*args, **(kwargs or {}))


def operations_of_forward(unet):
    with Spy() as spy:
        forward(unet)
    return spy.seen


@pytest.mark.parametrize(
    ("backend", "kernel"),
    [("auto", "flash"), ("sdpa", "flash"), ("flash", "flash"), ("math", "math")],
)
def test_report_names_the_kernel_that_the_network_runs(backend, kernel):
    unet = small_unet()
    report = choose_attention(unet, backend, use=small_use(), agree=lambda times: times)
    assert (report.kernel, report.num_modules, report.milliseconds) == (kernel, 4, {})
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert operations_of_forward(unet)[fused] == (4 if kernel == "flash" else 0)
    assert ("flash_attention_for_cpu" in report.operations[0]) == (kernel == "flash")


def test_report_follows_what_ran_rather_than_what_was_asked_for():
    # PyTorch itself is told not to use the fused kernel: the backend is sdpa all the same.
    unet = small_unet()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        report = choose_attention(unet, "sdpa", use=small_use(), agree=lambda times: times)
        seen = operations_of_forward(unet)
    assert (report.backend, report.kernel) == ("sdpa", "math")
    assert seen["aten::_scaled_dot_product_flash_attention_for_cpu"] == 0


def test_named_backend_that_refuses_the_type_is_an_error_with_shape_and_fix():
    with pytest.raises(ConfigError, match=r"flash.*4x16x8.*int32.*head_dim"):
        dispatched_operations(small_use(torch.int32), "flash")


def test_network_without_attention_reports_none():
    use = AttentionUse(shapes={}, batch=1, dtype=torch.float32, device=CPU)
    report = choose_attention(torch.nn.Linear(1, 1), "auto", use=use, agree=lambda times: times)
    assert (report.kernel, report.num_modules, report.operations) == ("none", 0, ())


def test_choice_leaves_the_random_state_as_it_was():
    unet = small_unet()
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    choose_attention(unet, "auto", use=small_use(), agree=lambda times: times)
    assert torch.equal(torch.rand(2), expected)
