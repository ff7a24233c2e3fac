import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed

from histodiff.diffusion import EdmObjective, MinSnrWeighting, create_preconditioning
from histodiff.errors import ConfigError
from histodiff.latents import Whitening
from histodiff.pretraining.dataset import TrainingDataset
from histodiff.pretraining.spec import PretrainSpec, StoreShare, ValidationConfig
from histodiff.pretraining.validation import Validation, validation_moments
from tests.support.latent_stores import open_new_store, patch_table
from tests.support.pretraining import tiny_config

WHITENING = Whitening(mean=(0.0, 0.0), scale=(1.0, 1.0))
EDM = create_preconditioning(EdmObjective(type="edm"))


@pytest.fixture
def one_rank():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Shrinks(torch.nn.Module):
    """The ideal denoiser of a standard normal."""

    def forward(self, x_BCHW, sigma_B):
        return x_BCHW / (1 + sigma_B.square()).reshape(-1, 1, 1, 1)


def test_validation_moments_are_val_rows_of_every_store(tmp_path):
    stores = [
        open_new_store(tmp_path / "a", patch_table(slides=8, side=3)),
        open_new_store(tmp_path / "b", patch_table(slides=4, side=2, split="val")),
    ]
    val = [store.rows_of_split("val") for store in stores]
    everything = validation_moments(stores, images=1000)
    expected = np.concatenate(
        [store.read_rows(rows) for store, rows in zip(stores, val, strict=True)]
    )
    assert np.array_equal(everything, expected)
    some = validation_moments(stores, images=7)
    assert len(some) == 7
    numbers = set(everything[:, 0, 0, 0].tolist())
    assert set(some[:, 0, 0, 0].tolist()) <= numbers


def test_validation_moments_without_val_rows_name_the_fix(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=4, side=2, split="train"))
    with pytest.raises(ConfigError, match="validation=null"):
        validation_moments([store], images=4)


def test_validation_loss_is_fixed_and_independent_of_the_batch(tmp_path, one_rank):
    store = open_new_store(tmp_path, patch_table(slides=8, side=3))
    config = ValidationConfig(images=9, bins=3, every_images=1)
    found = [
        Validation(
            config, stores=[store], whitening=WHITENING, preconditioning=EDM, seed=1, batch=batch,
            device="cpu", view="sample",
        ).losses(Shrinks())
        for batch in (2, 9)
    ]  # fmt: skip
    assert [bin.images for bin in found[0]] == [9, 9, 9]
    assert [bin.sigma for bin in found[0]] == sorted(bin.sigma for bin in found[0])
    for left, right in zip(*found, strict=True):
        assert left.loss == pytest.approx(right.loss, rel=1e-6)


def spec_of(*folders):
    """What ``TrainingDataset`` reads of a spec, from a config of the command."""
    config = tiny_config()
    values = {field.name: None for field in dataclasses.fields(PretrainSpec)}
    return PretrainSpec(
        **values
        | {
            "stores": tuple(StoreShare(str(folder), 1.0) for folder in folders),
            "num_lanes": config.num_lanes, "train": config.train, "seed": config.seed,
        }
    )  # fmt: skip


def test_validation_and_training_share_no_slide_or_patient(tmp_path):
    open_new_store(tmp_path / "a", patch_table(slides=8, side=4))
    open_new_store(tmp_path / "b", patch_table(slides=12, side=4))
    data = TrainingDataset.open(spec_of(tmp_path / "a", tmp_path / "b"))
    people = {
        split: {
            store.rows["patient_id"][int(row)].as_py()
            for store in data.stores
            for row in store.rows_of_split(split)
        }
        for split in ("train", "val")
    }
    assert people["val"]
    assert not people["train"] & people["val"]


def test_patient_trained_on_in_one_store_and_validated_on_in_another_is_refused(tmp_path):
    open_new_store(tmp_path / "a", patch_table(slides=4, side=4, split="train"))
    open_new_store(tmp_path / "b", patch_table(slides=4, side=4, split="val"))
    with pytest.raises(ConfigError, match="split by patient"):
        TrainingDataset.open(spec_of(tmp_path / "a", tmp_path / "b"))


def test_validation_noise_is_fixed_and_its_loss_is_unweighted(tmp_path, one_rank):
    store = open_new_store(tmp_path, patch_table(slides=8, side=3))
    config = ValidationConfig(images=9, bins=3, every_images=1)
    weighted = EdmObjective(type="edm", weighting=MinSnrWeighting(type="min_snr", gamma=0.1))
    validations = [
        Validation(
            config, stores=[store], whitening=WHITENING,
            preconditioning=create_preconditioning(objective), seed=1, batch=4, device="cpu",
            view="sample",
        )
        for objective in (EdmObjective(type="edm"), weighted)
    ]  # fmt: skip
    first = validations[0].losses(Shrinks())
    torch.rand(1000)  # another state of the global generator
    assert validations[0].losses(Shrinks()) == first
    assert validations[1].losses(Shrinks()) == first
