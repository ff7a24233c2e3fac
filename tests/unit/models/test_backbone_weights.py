"""Checkpoints in the layouts that people have: loaded whole, or refused by name."""

import hashlib

import pytest
import safetensors.torch
import timm
import torch

from histodiff.errors import ConfigError
from histodiff.models import classifier as classifiers
from histodiff.models.classifier import (
    ClassifierConfig,
    FileWeights,
    Normalisation,
    RepositoryWeights,
    create_classifier,
    load_classifier,
    save_classifier,
)
from histodiff.storage import storage_path

SIDE = 64


def donor(model="test_vit", **arguments):
    torch.manual_seed(7)
    network = timm.create_model(model, num_classes=0, img_size=SIDE, **arguments)
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.1)
    return network.eval()


def under(prefix, state):
    return {prefix + name: values for name, values in state.items()}


def made_from(tmp_path, content, *, model="test_vit", arguments=None, **where):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = FileWeights(type="file", path=str(path), sha256=digest, **where)
    config = ClassifierConfig(
        model=model, pretrained=weights, input_px=SIDE, arguments=arguments or {}
    )
    return create_classifier(config, 3).eval()


def same_features(classifier, network):
    pixels = torch.randint(
        0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = network.forward_features(classifier._prepared(pixels))
        return torch.equal(
            classifier.backbone.forward_features(classifier._prepared(pixels)), expected
        )


def head(width=64):
    return {"head.mlp.0.weight": torch.zeros(8, width), "head.last_layer.weight": torch.zeros(4, 8)}


LAYOUTS = {
    "timm": lambda state: state,
    "module and model": lambda state: under("module.model.", state),
    "compiled, in Lightning": lambda state: {"state_dict": under("net._orig_mod.", state)},
    "DINO teacher": lambda state: {"teacher": {**under("backbone.", state), **head()}, "epoch": 3},
    "iBOT": lambda state: {
        "model": {**under("module.backbone.", state), **under("module.", head()),
                  "module.backbone.masked_embed": torch.zeros(1, 64)},
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint_of_a_layout_is_loaded_whole(tmp_path, layout):
    network = donor()
    classifier = made_from(tmp_path, LAYOUTS[layout](network.state_dict()))
    assert same_features(classifier, network)
    assert classifier.backbone.head.out_features == 3


def test_checkpoint_of_student_and_teacher_is_loaded_where_one_is_named(tmp_path):
    student, teacher = donor(), donor()
    with torch.no_grad():
        teacher.norm.bias.add_(1.0)
    both = {
        **under("student.backbone.", student.state_dict()),
        **under("teacher.backbone.", teacher.state_dict()),
    }
    with pytest.raises(ConfigError, match=r"holds the network 2 times.*pretrained\.prefix"):
        made_from(tmp_path, both)
    assert same_features(made_from(tmp_path, both, prefix="teacher.backbone."), teacher)
    nested = {"student": student.state_dict(), "teacher": teacher.state_dict()}
    with pytest.raises(
        ConfigError, match=r"holds 2 networks \(student, teacher\).*pretrained\.key"
    ):
        made_from(tmp_path, nested)
    assert same_features(made_from(tmp_path, nested, key="teacher"), teacher)
    with pytest.raises(ConfigError, match="has no network `ema`; it has student, teacher"):
        made_from(tmp_path, nested, key="ema")


def test_checkpoint_with_missing_blocks_is_refused_by_name(tmp_path):
    state = {name: each for name, each in donor().state_dict().items() if "blocks.1." not in name}
    with pytest.raises(ConfigError, match=r"are missing \(blocks\.1\.norm1\.weight, .* more\)"):
        made_from(tmp_path, state)


def test_checkpoint_with_layer_scale_needs_the_argument(tmp_path):
    network = donor(init_values=1e-5)
    with pytest.raises(ConfigError, match=r"not its own \(blocks\.0\.ls1\.gamma.*init_values"):
        made_from(tmp_path, network.state_dict())
    scaled = made_from(tmp_path, network.state_dict(), arguments={"init_values": 1e-5})
    assert same_features(scaled, network)
    path = storage_path(tmp_path) / "saved"
    save_classifier(path, scaled, classes=("a", "b", "c"))
    assert same_features(load_classifier(path, device="cpu").classifier, network)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2, 2)}, "parameters .* are missing"),
        (under("something.else.", donor().state_dict()), "parameters .* are missing"),
        ({"epoch": 3}, "holds no networks"),
        ([1, 2], "no parameters by name"),
    ],
    ids=["another network", "unknown prefix", "no network", "no mapping"],
)
def test_checkpoint_of_something_else_is_refused_and_nothing_is_loaded(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        made_from(tmp_path, content)


def test_checkpoint_of_other_shapes_names_them(tmp_path):
    state = {**donor().state_dict(), "norm.weight": torch.zeros(7)}
    with pytest.raises(ConfigError, match=r"other shapes \(norm\.weight \(7,\) for \(64,\)\)"):
        made_from(tmp_path, state)


def test_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a checkpoint")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = FileWeights(type="file", path=str(path), sha256=digest)
    config = ClassifierConfig(model="test_vit", pretrained=weights, input_px=SIDE)
    with pytest.raises(ConfigError, match="neither a safetensors file nor a checkpoint"):
        create_classifier(config, 2)


def test_unknown_argument_is_refused():
    config = ClassifierConfig.model_validate(
        {"model": "test_vit", "pretrained": {"type": "none"}, "input_px": SIDE,
         "arguments": {"init_value": 1e-5}}
    )  # fmt: skip
    with pytest.raises(ConfigError, match="init_value"):
        create_classifier(config, 2)


def test_repository_at_a_commit_gives_weights_and_normalisation(monkeypatch):
    network, asked = donor(), []

    def state(place, **_):
        asked.append(place)
        return under("model.", network.state_dict())

    stated = {"mean": (0.7, 0.6, 0.5), "std": (0.2, 0.21, 0.22)}
    monkeypatch.setattr(classifiers, "load_state_dict_from_hf", state)
    monkeypatch.setattr(
        classifiers, "load_model_config_from_hf", lambda place: (stated, "test_vit", {})
    )
    weights = RepositoryWeights(type="repository", repository="lab/encoder", revision="0123abc")
    config = ClassifierConfig(model="test_vit", pretrained=weights, input_px=SIDE)
    classifier = create_classifier(config, 3).eval()
    assert asked == ["lab/encoder@0123abc"]
    assert same_features(classifier, network)
    assert classifier.normalisation == Normalisation(**stated)
    own = config.model_copy(update={"normalisation": Normalisation(mean=(0, 0, 0), std=(1, 1, 1))})
    assert create_classifier(own, 3).normalisation.std == (1, 1, 1)


def test_safetensors_with_a_prefix_are_loaded(tmp_path):
    network = donor()
    data = safetensors.torch.save(under("encoder.", network.state_dict()))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    weights = FileWeights(type="file", path=str(path), sha256=hashlib.sha256(data).hexdigest())
    config = ClassifierConfig(model="test_vit", pretrained=weights, input_px=SIDE)
    assert same_features(create_classifier(config, 3).eval(), network)
