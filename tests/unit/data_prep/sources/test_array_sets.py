"""PatchCamelyon, MedMNIST and PanNuke files through tile and back, against the arrays."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.inputs import ImageInput
from histodiff.errors import ConfigError
from histodiff.workflows.tile import TileConfig, estimate, tile
from tests.support.array_files import (
    PCAM,
    Pixels,
    cut,
    random_patches,
    write_hdf5,
    write_medmnist,
    write_pannuke,
    write_pcam,
)

TRAIN, VALID, TEST = (random_patches(seed, count, 96) for seed, count in ((1, 9), (2, 5), (3, 4)))
LABELS = {"train": [0, 1, 0, 1, 1, 0, 0, 1, 0], "valid": [1, 0, 1, 0, 1], "test": [0, 0, 1, 1]}


def config(data: Path, *sources: dict[str, Any], **changes: Any) -> TileConfig:
    values = {
        "name": "sets", "version": "v1", "data": str(data), "sources": list(sources),
        "mpp": 1.0, "patch_px": 96, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return parse_config(TileConfig, {**values, **changes}, source="test")


def source(kind: str, **changes: Any) -> dict[str, Any]:
    own = {"tissue": "label"} if kind == "pannuke" else {"splits": "given"}
    return {"type": kind, "mpp": 1.0, "fit": "crop", **own, **changes}


def found_images(data: Path, wanted: dict[str, Any]) -> dict[str, ImageInput]:
    inputs = find_inputs(str(data), config(data, wanted).sources)
    return {image.path: image for part in inputs.image_sets for image in part.images}


def read_all(index: PatchIndex) -> dict[str, Pixels]:
    block = PatchReader(index).read(range(index.patches.num_rows))
    assert block.failures == {}
    return dict(zip(index.patches["path"].to_pylist(), block.pixels, strict=True))


@pytest.fixture
def pcam(tmp_path: Path) -> Path:
    slides = {"train": ["s1"] * 4 + ["s2"] * 5, "valid": ["s3"] * 5, "test": ["s4", "s5"] * 2}
    for split, pixels in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        write_pcam(tmp_path, split, pixels, LABELS[split], slides[split])
    return tmp_path


@pytest.fixture
def medmnist(tmp_path: Path) -> Path:
    parts = {
        name: (pixels[:, :28, :28], LABELS[key])
        for name, key, pixels in (
            ("train", "train", TRAIN), ("val", "valid", VALID), ("test", "test", TEST),
        )
    }  # fmt: skip
    return write_medmnist(tmp_path / "pathmnist.npz", **parts)


def test_tile_pcam_gives_the_pixels_labels_and_slides_of_the_files(pcam: Path, site: Site) -> None:
    artifact = tile(config(pcam, source("pcam")), site)
    index = PatchIndex.open(artifact.path)
    pixels = read_all(index)
    assert len(pixels) == 18
    for split, expected in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        with h5py.File(pcam / f"{PCAM}_{split}_x.h5") as file:  # the files hold what we compare
            np.testing.assert_array_equal(file["x"][:], expected)
        for number in range(len(expected)):
            name = f"{PCAM}_{split}_x.h5#{number:07d}"
            np.testing.assert_array_equal(pixels[name], expected[number])
    rows = {row["path"]: row for row in index.patches.to_pylist()}
    assert rows[f"{PCAM}_train_x.h5#0000004"]["label"] == "1"
    assert rows[f"{PCAM}_train_x.h5#0000004"]["slide_id"] == "s2"
    slides = {row["slide_id"]: row for row in index.slides.to_pylist()}
    assert {key: row["num_patches"] for key, row in slides.items()} == {
        "s1": 4, "s2": 5, "s3": 5, "s4": 2, "s5": 2,
    }  # fmt: skip
    assert {(row["reader"], row["reader_version"]) for row in slides.values()} == {
        ("h5py", h5py.__version__)
    }
    assert {row["url"] for row in slides.values()} == {str(pcam)}


def test_patch_reader_survives_pickling_while_array_files_are_open(pcam: Path, site: Site) -> None:
    reader = PatchReader(PatchIndex.open(tile(config(pcam, source("pcam")), site).path))
    first = reader.read(range(18))
    second = pickle.loads(pickle.dumps(reader)).read(range(18))
    reader.close()
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.pixels, reader.read(range(18)).pixels)


def test_tile_pcam_keeps_given_splits_up_to_the_ledger(pcam: Path, site: Site) -> None:
    expected = {
        f"{PCAM}_{name}_x.h5#{number:07d}": split
        for name, split in (("train", "train"), ("valid", "val"), ("test", "test"))
        for number in range(len(LABELS[name]))
    }
    found = found_images(pcam, source("pcam"))
    assert {path: image.given_split for path, image in found.items()} == expected
    artifact = tile(config(pcam, source("pcam")), site)
    table = PatchIndex.open(artifact.path).patches
    ledger = dict(zip(table["path"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert ledger == expected


def test_pcam_with_own_splits_states_none(pcam: Path) -> None:
    found = found_images(pcam, source("pcam", splits="own"))
    assert {image.given_split for image in found.values()} == {None}


def test_pcam_without_meta_csv_takes_every_patch_as_its_own_slide(tmp_path: Path) -> None:
    write_pcam(tmp_path, "valid", VALID, LABELS["valid"])
    found = found_images(tmp_path, source("pcam", prefix="p-"))
    assert [image.slide_id for image in found.values()] == [f"p-valid-{n:07d}" for n in range(5)]


def test_pcam_label_map_renames_and_leaves_out(pcam: Path, site: Site) -> None:
    wanted = source("pcam", label_map={"0": None, "1": "tumour"})
    index = PatchIndex.open(tile(config(pcam, wanted), site).path)
    assert index.classes == ("tumour",)
    assert index.patches.num_rows == sum(map(sum, LABELS.values()))


def test_array_files_are_counted_once_and_hashed_whole(pcam: Path, site: Site) -> None:
    wanted = config(pcam, source("pcam"))
    sizes = [path.stat().st_size for path in pcam.glob("*_x.h5")]
    assert estimate(wanted, site)["input_bytes"] == sum(sizes)
    first = tile(wanted, site)
    changed = TRAIN.copy()
    changed[8, 0, 0, 0] += 1  # one value of one patch
    write_hdf5(pcam / f"{PCAM}_train_x.h5", x=changed)
    elsewhere = site.model_copy(update={"root": str(pcam / "other")})
    second = tile(wanted, elsewhere)
    assert first.manifest.fingerprint != second.manifest.fingerprint


def test_tile_pcam_with_a_damaged_patch_names_it_and_keeps_the_rest(pcam: Path, site: Site) -> None:
    path = pcam / f"{PCAM}_train_x.h5"
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(2)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(bytes(data))
    artifact = tile(config(pcam, source("pcam")), site)
    assert [(issue.unit, issue.reason) for issue in artifact.manifest.failed] == [
        (f"{PCAM}_train_x.h5#0000002", "UNREADABLE")
    ]
    assert PatchIndex.open(artifact.path).patches.num_rows == 17


def test_array_file_cut_off_after_tiling_is_a_failure_of_its_rows(pcam: Path, site: Site) -> None:
    index = PatchIndex.open(tile(config(pcam, source("pcam")), site).path)
    cut(pcam / f"{PCAM}_test_x.h5")
    paths = index.patches["path"].to_pylist()
    block = PatchReader(index).read(range(len(paths)))
    assert {paths[number] for number in block.failures} == {
        f"{PCAM}_test_x.h5#{number:07d}" for number in range(4)
    }
    assert block.pixels[[number not in block.failures for number in range(len(paths))]].any()


def test_tile_medmnist_gives_the_pixels_labels_and_splits_of_the_archive(
    medmnist: Path, site: Site
) -> None:
    wanted = source("medmnist", path=medmnist.name)
    artifact = tile(config(medmnist.parent, wanted, patch_px=28), site)
    index = PatchIndex.open(artifact.path)
    pixels = read_all(index)
    with np.load(medmnist) as archive:
        expected = np.concatenate([archive[f"{name}_images"] for name in ("train", "val", "test")])
        labels = np.concatenate([archive[f"{name}_labels"] for name in ("train", "val", "test")])
    assert len(pixels) == len(expected) == 18
    rows = {row["path"]: row for row in index.patches.to_pylist()}
    for number in range(18):
        name = f"pathmnist.npz#{number:07d}"
        np.testing.assert_array_equal(pixels[name], expected[number])
        assert rows[name]["label"] == str(labels[number, 0])
    found = found_images(medmnist.parent, source("medmnist"))
    assert [image.given_split for image in found.values()].count("val") == 5
    assert found["pathmnist.npz#0000009"].given_split == "val"
    assert found["pathmnist.npz#0000009"].slide_id == "pathmnist-val-0000000"


def test_tile_medmnist_of_grey_images_gives_rgb(tmp_path: Path, site: Site) -> None:
    grey = TRAIN[:, :28, :28, 0]
    write_medmnist(tmp_path / "tissuemnist.npz", train=(grey, LABELS["train"]))
    index = PatchIndex.open(tile(config(tmp_path, source("medmnist"), patch_px=28), site).path)
    pixels = read_all(index)["tissuemnist.npz#0000003"]
    np.testing.assert_array_equal(pixels, np.repeat(grey[3][..., None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
@pytest.mark.parametrize("layout", ["fold{}", "Fold {}/images/fold1"])
def test_tile_pannuke_gives_the_pixels_and_tissues_of_every_fold(
    dtype: type, layout: str, tmp_path: Path, site: Site
) -> None:
    folds = {1: random_patches(5, 3, 64), 2: random_patches(6, 2, 64)}
    tissues = {1: ["Breast", "Colon", "Bile-duct"], 2: ["Colon", "Adrenal_gland"]}
    for number, pixels in folds.items():
        folder = tmp_path / layout.format(number)
        write_pannuke(folder, pixels.astype(dtype), tissues[number])
    index = PatchIndex.open(tile(config(tmp_path, source("pannuke"), patch_px=64), site).path)
    assert index.classes == ("Adrenal_gland", "Bile-duct", "Breast", "Colon")
    found = read_all(index)
    rows = {row["path"]: row for row in index.patches.to_pylist()}
    assert len(rows) == 5
    for number, pixels in folds.items():
        for position in range(len(pixels)):
            name = f"{layout.format(number)}/images.npy#{position:07d}"
            np.testing.assert_array_equal(found[name], pixels[position])
            assert rows[name]["label"] == tissues[number][position]
            assert rows[name]["slide_id"] == f"{layout.format(number)}-{position:07d}"


def test_tile_pannuke_tissue_can_be_the_site(tmp_path: Path, site: Site) -> None:
    write_pannuke(tmp_path / "fold1", random_patches(5, 2, 64), ["Breast", "Colon"])
    wanted = config(tmp_path, source("pannuke", tissue="site"), patch_px=64)
    index = PatchIndex.open(tile(wanted, site).path)
    assert index.classes == ()
    assert index.slides["site"].to_pylist() == ["Breast", "Colon"]


def test_tile_pannuke_scaled_to_one_is_refused_by_patch(tmp_path: Path, site: Site) -> None:
    write_pannuke(tmp_path / "fold1", random_patches(5, 2, 64) / 255, ["Breast", "Colon"])
    write_pannuke(tmp_path / "fold2", random_patches(6, 2, 64), ["Breast", "Colon"])
    artifact = tile(config(tmp_path, source("pannuke"), patch_px=64), site)
    assert len(artifact.manifest.failed) == 2
    assert "save uint8" in artifact.manifest.failed[0].detail


def test_pcam_packed_is_refused_with_the_line_that_unpacks_it(pcam: Path) -> None:
    path = pcam / f"{PCAM}_valid_y.h5"
    path.rename(f"{path}.gz")
    with pytest.raises(ConfigError, match=f"run: gunzip -k .*{path.name}.gz$"):
        found_images(pcam, source("pcam"))


def test_pcam_slide_in_two_given_splits_names_the_slide_and_the_fix(pcam: Path) -> None:
    write_pcam(pcam, "test", TEST, LABELS["test"], ["s1"] * 4)
    with pytest.raises(ConfigError, match=r"1 patient.*'s1' in test.*train.*split\.shared"):
        found_images(pcam, source("pcam"))
    found_images(pcam, source("pcam", splits="own"))


def _two_archives(folder: Path) -> None:
    for name in "ab":
        write_medmnist(folder / f"{name}.npz", train=(TRAIN, LABELS["train"]))


def _multi_label(folder: Path) -> None:
    np.savez(folder / "a.npz", train_images=TRAIN, train_labels=np.zeros((9, 14), np.uint8))


def _other_archive(folder: Path) -> None:
    np.savez(folder / "a.npz", images=TRAIN)


def _cut_archive(folder: Path) -> None:
    cut(write_medmnist(folder / "a.npz", train=(TRAIN, LABELS["train"])))


def _short_labels(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["valid"])


def _short_meta(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["train"], ["s1"])


def _no_wsi(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["train"])
    (folder / f"{PCAM}_train_meta.csv").write_text("coord_y\n" + "1\n" * 9)


def _no_labels(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["train"])
    (folder / f"{PCAM}_train_y.h5").unlink()


def _cut_labels(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["train"])
    cut(folder / f"{PCAM}_train_y.h5")


def _cut_images(folder: Path) -> None:
    write_pcam(folder, "train", TRAIN, LABELS["train"])
    cut(folder / f"{PCAM}_train_x.h5")


def _no_types(folder: Path) -> None:
    write_pannuke(folder / "fold1", TRAIN, ["a"] * 9)
    (folder / "fold1/types.npy").unlink()


def _short_types(folder: Path) -> None:
    write_pannuke(folder / "fold1", TRAIN, ["a"] * 8)


def _nothing(folder: Path) -> None:
    (folder / "notes.txt").write_text("empty")


@pytest.mark.parametrize(
    ("kind", "prepare", "message"),
    [
        ("pcam", _nothing, "has no camelyonpatch_level_2_split_"),
        ("pcam", _short_labels, "_train_x.h5 has 9 patches, but there are 5 labels"),
        ("pcam", _short_meta, "has 9 patches, but there are 1 rows of the meta CSV"),
        ("pcam", _no_wsi, "_train_meta.csv: has no column 'wsi'"),
        ("pcam", _no_labels, "_train_y.h5 does not exist"),
        ("pcam", _cut_labels, "_train_y.h5 is damaged or incomplete"),
        ("pcam", _cut_images, "_train_x.h5 is damaged"),
        ("medmnist", _nothing, "has 0 .npz files"),
        ("medmnist", _two_archives, "has 2 .npz files; name one"),
        ("medmnist", _multi_label, r"a.npz has labels uint8 \(9, 14\)"),
        ("medmnist", _other_archive, "a.npz is damaged or incomplete .has none of train_images"),
        ("medmnist", _cut_archive, "a.npz is damaged or incomplete"),
        ("pannuke", _nothing, "has no images.npy"),
        ("pannuke", _no_types, "types.npy does not exist"),
        ("pannuke", _short_types, "images.npy has 9 patches, but there are 8 labels"),
    ],
)
def test_array_set_that_does_not_fit_is_one_line_with_the_file(
    kind: str, prepare: Any, message: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        found_images(tmp_path, source(kind))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("sources.0.path", str(tmp_path)))


@pytest.mark.parametrize("missing", ["splits", "mpp", "fit"])
def test_pcam_source_without_what_changes_the_science_is_refused(
    missing: str, tmp_path: Path
) -> None:
    wanted = source("pcam")
    del wanted[missing]
    with pytest.raises(ConfigError, match=missing):
        config(tmp_path, wanted)
