"""Weight decay takes matrices and kernels, and leaves norms, biases and embeddings alone."""

import pytest
import timm
import torch
from diffusers.models.normalization import RMSNorm
from torch import nn

from histodiff.models.dit import DiTConfig, create_dit
from histodiff.models.latent_classifier import LatentClassifier, LatentClassifierConfig
from histodiff.models.unet import create_unet, unet_preset
from histodiff.training import AdamWConfig
from histodiff.training.optimizer import adamw, parameter_groups

DECAY = AdamWConfig(type="adamw", lr=0.1, weight_decay=0.5)


def decaying(module: nn.Module, config: AdamWConfig = DECAY) -> set[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]
        for group in parameter_groups(module, config)
        if group["weight_decay"]
        for parameter in group["params"]
    }


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 4)
        self.kernel = nn.Conv2d(2, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.last = nn.Linear(4, 1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_matrices_and_kernels_decay_and_nothing_else():
    assert decaying(Mixed()) == {"kernel.weight", "last.weight"}


def test_every_trained_parameter_is_in_one_group():
    module = Mixed()
    grouped = [p for group in parameter_groups(module, DECAY) for p in group["params"]]
    trained = [p for p in module.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trained))


def test_without_decay_there_is_one_group():
    assert len(parameter_groups(Mixed(), AdamWConfig(type="adamw", lr=0.1))) == 1


def test_a_timm_model_says_which_of_its_weights_do_not_decay():
    found = decaying(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=2))
    assert "pos_embed" not in found
    assert "cls_token" not in found
    assert "blocks.0.attn.qkv.weight" in found


SHARED = DiTConfig(
    type="dit", token_side=2, width=16, depth=1, num_heads=2, modulation="shared", qk_norm="rms"
)


@pytest.mark.parametrize(
    "network",
    [
        create_unet(unet_preset("tiny"), latent_shape=(4, 16, 16), device=torch.device("cpu")),
        create_dit(SHARED, latent_shape=(4, 4, 4), device=torch.device("cpu")),
        LatentClassifier(LatentClassifierConfig(channels=(16,)), latent_channels=4, num_classes=2),
        timm.create_model("test_resnet", num_classes=2),
    ],
    ids=["unet", "dit", "guide", "resnet"],
)
def test_scales_and_biases_of_our_networks_do_not_decay(network):
    of_norms = {
        f"{name}.{own}"
        for name, module in network.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d | RMSNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    found = decaying(network)
    assert found
    assert of_norms
    assert not found & of_norms
    assert not {name for name in found if name.endswith("bias")}


def test_a_step_without_gradient_shrinks_what_decays_alone():
    module = Mixed()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    optimizer = adamw(module, DECAY, fused=False)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    shrunk = decaying(module)
    for name, tensor in module.state_dict().items():
        factor = 1 - 0.1 * 0.5 if name in shrunk else 1.0
        torch.testing.assert_close(tensor, before[name] * factor)
