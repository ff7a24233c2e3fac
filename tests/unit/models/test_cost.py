"""Parameters and FLOPs of the presets against counts of diffusers' own modules, taken apart."""

import pytest
import torch

from histodiff.diffusion import EdmObjective
from histodiff.kernels.attention import AttentionConfig
from histodiff.kernels.autotune import AttentionShape
from histodiff.models.cost import flops_per_image, network_cost
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.unet import UNetConfig, unet_preset


@pytest.mark.parametrize(
    ("name", "shape", "forward", "training"),
    [
        ("tiny", (4, 16, 16), 0.331, 0.994),
        # Counted on diffusers' UNet2DModel of 32x32x4 latents, attention at 16 px and below.
        ("small", (4, 32, 32), 18.1, 54.3),
        ("base", (4, 32, 32), 41.7, 125.2),
        ("paper", (3, 64, 64), 222.0, 665.9),
    ],
)
def test_preset_does_the_counted_work(name, shape, forward, training):
    flops = network_cost(unet_preset(name), shape).flops
    assert flops.forward / 1e9 == pytest.approx(forward, rel=0.003)
    assert flops.training / 1e9 == pytest.approx(training, rel=0.003)


@pytest.mark.parametrize(("name", "millions"), [("small", 64.1), ("base", 242.2)])
def test_preset_has_the_counted_parameters_but_for_scale_and_shift(name, millions):
    # The counts were taken with the noise level added; scaling as well takes twice the projection.
    added = unet_preset(name).model_copy(update={"time_conditioning": "add"})
    plain = network_cost(added, (4, 32, 32)).parameters
    assert plain / 1e6 == pytest.approx(millions, rel=0.001)
    assert plain < network_cost(unet_preset(name), (4, 32, 32)).parameters < 1.05 * plain


ONE_LEVEL = UNetConfig(
    type="unet",
    channels=(8,),
    attention_levels=(True,),
    blocks_per_level=1,
    head_dim=4,
    norm_groups=4,
)


def test_flops_equal_a_count_by_hand():
    # One level of 8 channels at 4x4: every 3x3 convolution and product, 2 FLOPs a multiply-add.
    pixels, width, embedding = 16, 8, 32

    def conv(inputs, outputs, kernel=3):
        return 2 * pixels * inputs * outputs * kernel**2

    def block(inputs):  # two convolutions, a shortcut where the width changes, scale and shift
        shortcut = conv(inputs, width, kernel=1) if inputs != width else 0
        return conv(inputs, width) + conv(width, width) + shortcut + 2 * embedding * 2 * width

    attention = 4 * 2 * pixels * width**2 + 2 * 2 * pixels**2 * width
    time = 2 * width * embedding + 2 * embedding**2
    down, middle, up = block(8), 2 * block(8), 2 * block(16)
    num_attention = 1 + 1 + 2
    expected = conv(2, 8) + time + down + middle + up + num_attention * attention + conv(8, 2)
    assert network_cost(ONE_LEVEL, (2, 4, 4)).flops.forward == expected


def test_flops_do_not_depend_on_the_attention_that_runs():
    counted = []
    for backend in ("flash", "math"):
        unet = ONE_LEVEL.model_copy(update={"attention": AttentionConfig(backend=backend)})
        config = DenoiserConfig(network=unet, objective=EdmObjective(type="edm"))
        counted.append(flops_per_image(Denoiser(config, latent_shape=(2, 4, 4))))
    assert counted[0] == counted[1]
    assert 2 * counted[0].forward < counted[0].training < 3 * counted[0].forward


def test_attention_shapes_are_those_of_the_network():
    # level 1 of 8x8 latents has 4x4 = 16 positions, 32 channels, so 4 heads of 8: one module on
    # the way down, two up, one in the middle.
    config = ONE_LEVEL.model_copy(
        update={"channels": (16, 32), "attention_levels": (False, True), "head_dim": 8}
    )
    expected = {AttentionShape(heads=4, tokens=16, head_dim=8): 4}
    assert network_cost(config, (4, 8, 8)).attention == expected


def test_counting_leaves_the_random_state_as_it_was():
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    network_cost(ONE_LEVEL, (2, 8, 8))
    assert torch.equal(torch.rand(2), expected)
