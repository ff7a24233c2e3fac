import numpy as np
import pytest

from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.pretraining.autoencoder.patches import NO_LABEL, load_patches, load_places
from tests.support.labelled_chain import CLASSES, PATCHES_PER_SLIDE, SPLITS, make_patches

AVAILABLE = len(CLASSES) * SPLITS.count("train") * PATCHES_PER_SLIDE


@pytest.fixture
def index(site, tmp_path):
    return PatchIndex.open(make_patches(site, tmp_path / "images").path)


def test_load_patches_takes_one_split_and_no_more_than_asked(index):
    everything = load_patches([index], split="train", count=1000, seed=0)
    assert everything.pixels_NHWC.shape == (AVAILABLE, 32, 32, 3)
    some = load_patches([index, index], split="train", count=5, seed=0).pixels_NHWC
    assert len(some) == 5
    known = {patch.tobytes() for patch in everything.pixels_NHWC}
    assert {patch.tobytes() for patch in some} <= known


def test_load_patches_leaves_out_and_names_what_cannot_be_read(index, tmp_path):
    victim = next(row for row in index.patches.to_pylist() if row["split"] == "val")
    path = tmp_path / "images" / victim["path"]
    path.write_bytes(path.read_bytes()[:60])
    loaded = load_patches([index], split="val", count=1000, seed=0)
    assert len(loaded.pixels_NHWC) == len(CLASSES) * PATCHES_PER_SLIDE - 1
    assert [(issue.unit, issue.reason) for issue in loaded.failed] == [
        (victim["path"], "UNREADABLE")
    ]


def test_load_patches_of_an_empty_split_names_the_split(index, tmp_path):
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="val"):
        load_patches([index], split="val", count=10, seed=0)


def pools(index, places, *, batch=6):
    """By place, the patches that it draws from."""
    loaded = load_places([index], places=places, batch=batch, count=20, label_of={}, seed=0)
    return {
        place: {loaded.pixels_NHWC[number].tobytes() for number in numbers}
        for place, numbers in loaded.by_place.items()
    }


def test_load_places_gives_every_patch_to_one_place_whatever_the_ranks(index):
    alone = pools(index, range(6))
    chosen = load_patches([index], split="train", count=20, seed=0).pixels_NHWC
    assert sum(len(pool) for pool in alone.values()) == len(chosen) == 20
    assert set.union(*alone.values()) == {patch.tobytes() for patch in chosen}
    assert {**pools(index, range(3)), **pools(index, range(3, 6))} == alone
    held = load_places([index], places=range(3), batch=6, count=20, label_of={}, seed=0).pixels_NHWC
    assert len(held) == sum(len(alone[place]) for place in range(3))


def test_load_places_of_a_batch_larger_than_the_patches_uses_each_patch(index):
    found = pools(index, range(50), batch=50)
    assert all(len(pool) == 1 for pool in found.values())
    assert len(set.union(*found.values())) == 20


def test_load_places_names_a_place_whose_patches_cannot_be_read(index, tmp_path):
    before = load_places([index], places=range(20), batch=20, count=20, label_of={}, seed=0)
    [number] = before.by_place[7]
    victim = before.pixels_NHWC[number]
    images = {path: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    train = index.patches.filter(np.asarray(index.patches["split"].to_pylist()) == "train")
    read = load_patches([index], split="train", count=1000, seed=0).pixels_NHWC
    [place] = [n for n, patch in enumerate(read) if np.array_equal(patch, victim)]
    path = tmp_path / "images" / train["path"][place].as_py()
    path.write_bytes(images[path][:60])
    with pytest.raises(ConfigError, match="place 7 of the batch"):
        load_places([index], places=range(20), batch=20, count=20, label_of={}, seed=0)
    others = load_places([index], places=range(10, 20), batch=20, count=20, label_of={}, seed=0)
    assert not others.failed


def test_load_places_knows_labels_of_the_first_index_that_may_be_used(index):
    patches = index.patches.to_pylist()
    first = next(n for n, row in enumerate(patches) if row["split"] == "train")
    loaded = load_places(
        [index, index], places=range(4), batch=4, count=1000, label_of={first: 7}, seed=0
    )
    assert sorted(loaded.label_N.tolist()) == [NO_LABEL] * (2 * AVAILABLE - 1) + [7]
    [labelled] = loaded.pixels_NHWC[loaded.label_N == 7]
    alone = load_patches([index], split="train", count=1000, seed=0).pixels_NHWC
    assert np.array_equal(labelled, alone[0])
