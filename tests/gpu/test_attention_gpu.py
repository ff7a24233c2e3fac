import math

import pytest
import torch

from histodiff.errors import ConfigError
from histodiff.kernels.attention import attention, install_attention, usable_backends
from histodiff.kernels.autotune import AttentionUse, choose_attention
from histodiff.models.cost import network_cost
from histodiff.models.unet import create_unet, unet_preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
BACKENDS = ("sdpa", "flash", "cudnn", "efficient", "math", "xformers")
HALF_ONLY = ("flash", "cudnn")
KERNELS = {"flash": "flash", "cudnn": "cudnn", "efficient": "efficient", "math": "math"}


def naive_attention(q, k, v):
    """Vaswani et al. 2017, Eq. 1."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True) @ v


def require(backend, dtype=torch.bfloat16):
    if backend not in usable_backends(CUDA):
        pytest.skip(f"{backend} is not installed")
    if backend in HALF_ONLY and dtype == torch.float32:
        pytest.skip(f"{backend} takes 16 bits only")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 4, 256, 64), (2, 8, 1024, 64), (3, 12, 64, 32)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_backend_equals_the_naive_attention_in_value_and_gradient(backend, shape, dtype, tolerance):
    require(backend, dtype)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator).to(CUDA, dtype) for _ in range(4)]
    given = [part.clone().requires_grad_() for part in parts[:3]]
    truth = [part.double().requires_grad_() for part in parts[:3]]
    ours, expected = attention(*given, backend=backend), naive_attention(*truth)
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)
    ours.backward(parts[3])
    expected.backward(parts[3].double())
    for mine, theirs in zip(given, truth, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance)


def test_unet_gives_the_same_with_xformers_and_sdpa():
    pytest.importorskip("xformers")
    torch.manual_seed(0)
    unet = create_unet(unet_preset("tiny"), latent_shape=(4, 16, 16), device=CUDA)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.02)
    x = torch.randn((4, 4, 16, 16), device=CUDA)
    outputs = []
    for backend in ("xformers", "sdpa"):
        assert install_attention(unet, backend, device=CUDA).backend == backend
        outputs.append(unet(x, torch.tensor([10.0] * 4, device=CUDA)).sample)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


def small_use(dtype=torch.bfloat16):
    shapes = network_cost(unet_preset("small"), (4, 32, 32)).attention
    return AttentionUse(shapes=shapes, batch=64, dtype=dtype, device=CUDA)


def small_unet():
    return create_unet(unet_preset("small"), latent_shape=(4, 32, 32), device=CUDA)


@pytest.mark.parametrize("backend", KERNELS)
def test_report_names_the_kernels_that_the_profiler_saw(backend):
    require(backend)
    report = choose_attention(small_unet(), backend, use=small_use(), agree=lambda times: times)
    print(report)
    assert report.kernel == KERNELS[backend]
    assert len(report.operations) > 1  # the dispatched operation, and kernels of the device


def test_auto_measures_and_takes_the_fastest():
    report = choose_attention(small_unet(), "auto", use=small_use(), agree=lambda times: times)
    print(report)
    assert len(report.milliseconds) >= 3
    assert report.backend == min(report.milliseconds, key=report.milliseconds.get)


def test_named_backend_that_cannot_run_the_type_is_an_error():
    with pytest.raises(ConfigError, match=r"flash.*float32"):
        choose_attention(
            small_unet(), "flash", use=small_use(torch.float32), agree=lambda times: times
        )
