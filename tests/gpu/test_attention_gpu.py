import pytest
import torch

from histodiff.kernels.attention import attention, install_attention
from histodiff.models.unet import create_unet, unet_preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("shape", [(2, 4, 256, 64), (2, 8, 1024, 64), (3, 12, 64, 32)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_xformers_equals_sdpa_in_value_and_gradient(shape, dtype, tolerance):
    pytest.importorskip("xformers")
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(4)]
    results = []
    for backend in ("xformers", "sdpa"):
        given = [part.clone().requires_grad_() for part in parts[:3]]
        out = attention(*given, backend=backend)
        out.backward(parts[3])
        results.append((out, *(part.grad for part in given)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_unet_gives_the_same_with_xformers_and_sdpa():
    pytest.importorskip("xformers")
    device = torch.device("cuda")
    torch.manual_seed(0)
    unet = create_unet(unet_preset("tiny"), latent_shape=(4, 16, 16), device=device)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.02)
    x = torch.randn((4, 4, 16, 16), device=device)
    outputs = []
    for backend in ("xformers", "sdpa"):
        assert install_attention(unet, backend, device=device).backend == backend
        outputs.append(unet(x, torch.tensor([10.0] * 4, device=device)).sample)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)
