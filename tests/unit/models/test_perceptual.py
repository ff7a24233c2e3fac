import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.vgg import make_layers

from histodiff.config import parse_config
from histodiff.errors import ConfigError
from histodiff.models.perceptual import Lpips, RandomFeatures, perceptual_distance

BLOCKS = ((4, 4), (6, 6), (8, 8, 8))


def pictures(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((2, 3, 3, 16, 16), generator=generator) * 2 - 1


@pytest.fixture
def layers():
    """torchvision's own layers of a tiny VGG."""
    torch.manual_seed(0)
    plan = [entry for block in BLOCKS for entry in (*block, "M")]
    layers = make_layers(plan)
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.bias, 0.1)  # no feature vector is nearly zero
    return layers


@pytest.fixture
def lins():
    return [torch.rand(1, block[-1], 1, 1) for block in BLOCKS]


@pytest.fixture
def files(tmp_path, layers, lins):
    """As they come: torchvision's .pth of the network, and another file of LPIPS's weights."""
    network = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({**network, "classifier.0.bias": torch.zeros(3)}, tmp_path / "vgg.pth")
    named = {f"lin{number}.model.1.weight": lin for number, lin in enumerate(lins)}
    save_file(named, tmp_path / "lins.safetensors")
    return [described(tmp_path / name) for name in ("vgg.pth", "lins.safetensors")]


def described(path):
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def lpips(files, **changes):
    values = {"type": "lpips", "files": files, "blocks": BLOCKS, **changes}
    return parse_config(Lpips, values, source="test")


def naive_lpips(layers, lins, first, second):
    """LPIPS written down plainly, picture by picture."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1)
    distances = []
    for pair in zip(first, second, strict=True):
        maps = [((picture - shift) / scale)[None] for picture in pair]
        total, block = 0.0, 0
        for number, layer in enumerate(layers):
            maps = [layer(one) for one in maps]
            last = number + 1 < len(layers) and isinstance(layers[number + 1], torch.nn.MaxPool2d)
            if last:
                units = [one / (one.norm(dim=1, keepdim=True) + 1e-10) for one in maps]
                total = total + (lins[block] * (units[0] - units[1]) ** 2).sum(1).mean()
                block += 1
        distances.append(total)
    return torch.stack(distances)


def test_lpips_from_files_equals_the_naive_one_and_so_does_its_gradient(files, layers, lins):
    distance = perceptual_distance(lpips(files), device="cpu")
    decoded, clean = pictures()
    decoded.requires_grad_()
    expected = naive_lpips(layers, lins, decoded, clean)
    torch.testing.assert_close(distance(decoded, clean), expected)
    [wanted] = torch.autograd.grad(expected.sum(), decoded)
    [found] = torch.autograd.grad(distance(decoded, clean).sum(), decoded)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_lpips_of_another_file_than_was_meant_is_refused(files):
    swapped = [files[0] | {"sha256": files[1]["sha256"]}, files[1]]
    with pytest.raises(ConfigError, match=r"has sha256 .*the file that was meant"):
        perceptual_distance(lpips(swapped), device="cpu")


@pytest.mark.parametrize(
    ("keep", "blocks", "message"),
    [
        ([0], BLOCKS, "lin0"),
        ([1], BLOCKS, r"features\.0"),
        ([0, 1], ((4, 4), (6, 6), (8, 8, 9)), r"features\.14"),
    ],
)
def test_lpips_of_files_that_lack_something_says_what(files, keep, blocks, message):
    some = [files[number] for number in keep]
    with pytest.raises(ConfigError, match=message):
        perceptual_distance(lpips(some, blocks=blocks), device="cpu")


def test_lpips_of_a_missing_file_or_of_none_with_tensors_is_one_clear_error(tmp_path, files):
    gone = [{"path": str(tmp_path / "gone.pth"), "sha256": "0" * 64}]
    with pytest.raises(ConfigError, match="cannot be read"):
        perceptual_distance(lpips(gone), device="cpu")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ConfigError, match="holds no tensors"):
        perceptual_distance(lpips([described(tmp_path / "text.safetensors")]), device="cpu")


class Malicious:
    def __reduce__(self):
        return print, ("run",)


def test_lpips_runs_nothing_that_lies_in_a_file(tmp_path, capsys):
    torch.save({"features.0.weight": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(ConfigError, match="holds no tensors"):
        perceptual_distance(lpips([described(tmp_path / "bad.pth")]), device="cpu")
    assert "run" not in capsys.readouterr().out


def test_random_features_are_those_of_the_seed_and_are_not_trained():
    decoded, clean = pictures()
    first, again, other = (
        perceptual_distance(RandomFeatures(seed=seed), device="cpu") for seed in (0, 0, 1)
    )
    assert torch.equal(first(decoded, clean), again(decoded, clean))
    assert not torch.equal(first(decoded, clean), other(decoded, clean))
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_random_features_see_blur_as_worse_than_noise_of_the_same_error():
    """L1 and L2 do not: this is what the term is for."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand((4, 3, 64, 64), generator=generator) * 2 - 1
    clean = texture * 0.6
    blurred = torch.nn.functional.avg_pool2d(clean, 3, stride=1, padding=1)
    error = (blurred - clean).square().mean().sqrt()
    noisy = clean + error * torch.randn(clean.shape, generator=generator)
    distance = perceptual_distance(RandomFeatures(), device="cpu")
    assert distance(blurred, clean).mean() > distance(noisy, clean).mean() > 0
    assert torch.equal(distance(clean, clean), torch.zeros(4))
