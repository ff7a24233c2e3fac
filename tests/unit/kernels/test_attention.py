import math

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from diffusers.models.attention_processor import Attention

from histodiff.errors import ConfigError
from histodiff.kernels.attention import (
    SelfAttentionProcessor,
    attention,
    install_attention,
    resolved_backend,
)

CPU = torch.device("cpu")


def naive_attention(q, k, v):
    """Vaswani et al. 2017, Eq. 1, with a loop over heads."""
    heads = []
    for head in range(q.shape[1]):
        scores = torch.einsum("bnd,bmd->bnm", q[:, head], k[:, head]) / math.sqrt(q.shape[-1])
        exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        weights = exponentials / exponentials.sum(dim=-1, keepdim=True)
        heads.append(torch.einsum("bnm,bmd->bnd", weights, v[:, head]))
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("backend", ["sdpa", "flash", "math"])
@pytest.mark.parametrize("shape", [(1, 1, 16, 8), (2, 3, 64, 16), (2, 8, 17, 24)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_attention_equals_the_naive_one_in_value_and_gradient(backend, shape, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(shape, generator=generator).to(dtype).double() for _ in range(4)]
    given = [tensor.to(dtype, copy=True).requires_grad_() for tensor in exact[:3]]
    truth = [tensor.clone().requires_grad_() for tensor in exact[:3]]

    ours, expected = attention(*given, backend=backend), naive_attention(*truth)
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)
    ours.backward(exact[3].to(dtype))
    expected.backward(exact[3])
    for mine, theirs in zip(given, truth, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance)


def small_unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16, 32),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip


def small_autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, latent_channels=2, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def unet_output(unet):
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return unet(x, torch.tensor([3.0, 500.0])).sample


def autoencoder_output(autoencoder):
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return autoencoder(x).sample


@pytest.mark.parametrize(
    ("make", "output"), [(small_unet, unet_output), (small_autoencoder, autoencoder_output)]
)
def test_installed_processor_equals_that_of_diffusers_in_value_and_gradient(make, output):
    theirs, ours = make(), make()
    report = install_attention(ours, "sdpa", device=CPU)
    expected, found = output(theirs), output(ours)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)
    assert report.num_modules == sum(isinstance(part, Attention) for part in ours.modules())
    assert report.num_modules > 0


def test_install_replaces_what_runs():
    unet = small_unet()
    install_attention(unet, "auto", device=CPU)
    modules = [part for part in unet.modules() if isinstance(part, Attention)]
    with torch.no_grad():
        for module in modules:  # a processor that ignored the module's own weights would not see it
            module.to_out[0].weight.zero_()
            module.to_out[0].bias.zero_()
    x = torch.randn((1, modules[0].to_q.in_features, 4, 4))
    assert torch.equal(modules[0](x), x)


def test_auto_resolves_to_sdpa_on_cpu_and_the_report_says_so():
    assert resolved_backend("auto", CPU) == "sdpa"
    assert install_attention(small_unet(), "auto", device=CPU).backend == "sdpa"


@pytest.mark.parametrize("backend", ["xformers", "cudnn", "efficient"])
def test_explicit_backend_that_cannot_run_on_cpu_is_refused_with_the_fix(backend):
    with pytest.raises(ConfigError, match=rf"{backend}.*sdpa"):
        install_attention(small_unet(), backend, device=CPU)


def test_every_attention_module_runs_the_installed_processor():
    unet = small_unet()
    install_attention(unet, "flash", device=CPU)
    processors = [part.processor for part in unet.modules() if isinstance(part, Attention)]
    assert processors
    assert all(isinstance(processor, SelfAttentionProcessor) for processor in processors)
    assert {processor.backend for processor in processors} == {"flash"}


def test_processor_refuses_a_mask():
    unet = small_unet()
    install_attention(unet, "sdpa", device=CPU)
    module = next(part for part in unet.modules() if isinstance(part, Attention))
    with pytest.raises(NotImplementedError, match="self-attention"):
        module(torch.zeros(1, module.to_q.in_features, 2, 2), attention_mask=torch.zeros(1, 4))
