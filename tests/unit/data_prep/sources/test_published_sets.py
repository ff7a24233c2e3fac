"""The shipped configs of public data sets, on small copies laid out as published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import load_config
from histodiff.config.loader import shipped_configs
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.sources.inputs import MET_HERE
from histodiff.errors import ConfigError
from histodiff.workflows.tile import TileConfig, tile
from tests.support.published_sets import (
    BREAKHIS_TEST,
    NCT_CLASSES,
    TISSUES,
    write_breakhis,
    write_chaoyang,
    write_nct_crc,
    write_pathmnist,
    write_picture,
    write_whole_pannuke,
    write_whole_pcam,
)

Rows = list[dict[str, Any]]


def tiled(name: str, data: Path, site: Site, *overrides: str) -> tuple[Artifact, Rows]:
    """The index by a shipped config, and its patches."""
    path = shipped_configs() / "datasets" / f"{name}.yaml"
    config = load_config(TileConfig, path, [f"data={data}", *overrides])
    artifact = tile(config, site)
    return artifact, PatchIndex.open(artifact.path).patches.to_pylist()


def met(artifact: Artifact) -> list[str]:
    """What the run itself found to be a trap."""
    return [
        trap["what"] for trap in artifact.manifest.contents["traps"] if trap["source"] == MET_HERE
    ]


def of_split(rows: Rows, split: str, column: str = "path") -> set[Any]:
    return {row[column] for row in rows if row["split"] == split}


def test_nct_crc_tests_on_all_of_the_7k_and_trains_and_validates_on_the_100k(
    tmp_path: Path, site: Site
) -> None:
    write_nct_crc(tmp_path)
    artifact, rows = tiled("nct_crc", tmp_path, site)
    assert len(rows) == 9 * 9
    assert of_split(rows, "test") == {row["path"] for row in rows if "-TCGA-" in row["path"]}
    assert len(of_split(rows, "test")) == 9 * 3
    for split in ("train", "val", "test"):
        assert of_split(rows, split, "label") == set(NCT_CLASSES)
    assert len(of_split(rows, "val")) == 9  # the least that a class of six slides gets
    assert {row["effective_mpp_x"] for row in rows} == {0.5}
    assert all(row["label"] == row["path"].split("/")[0] for row in rows)
    assert [what.split(" images")[0] for what in met(artifact)] == ["100,000", "7,180"]


def test_nct_crc_leaves_hidden_and_foreign_files_out_and_names_a_foreign_class(
    tmp_path: Path, site: Site
) -> None:
    write_nct_crc(tmp_path)
    folder = tmp_path / "NCT-CRC-HE-100K"
    for odd in (".ipynb_checkpoints/ADI-copy.tif", "ADI/.DS_Store", "__MACOSX/ADI/._ADI-A.tif"):
        (folder / odd).parent.mkdir(exist_ok=True, parents=True)
        (folder / odd).write_bytes(b"junk")
    (folder / "ADI" / "Thumbs.db").write_bytes(b"junk")
    artifact, rows = tiled("nct_crc", tmp_path, site)
    assert len(rows) == 81
    assert artifact.manifest.failed == ()
    write_picture(folder / "CRC-VAL-HE-7K" / "ADI-X.tif", 224, 224)  # unpacked into the wrong place
    with pytest.raises(ConfigError, match=r"sources\.0\.label_map: has no 'CRC-VAL-HE-7K'"):
        tiled("nct_crc", tmp_path, site, "version=v2")


def test_pathmnist_keeps_its_splits_and_names_the_tissues(tmp_path: Path, site: Site) -> None:
    write_pathmnist(tmp_path)
    _, rows = tiled("pathmnist", tmp_path, site)
    for split in ("train", "val", "test"):
        numbers = [row["path"].split("#")[1] for row in rows if row["split"] == split]
        labels = [row["label"] for row in rows if row["split"] == split]
        assert len(set(numbers)) == 9
        assert sorted(labels) == sorted(NCT_CLASSES)
    by_number = {int(row["path"].split("#")[1]): row["label"] for row in rows}
    assert [by_number[number] for number in range(9)] == list(NCT_CLASSES)


def test_pcam_keeps_its_splits_and_takes_slides_from_the_meta_csv(
    tmp_path: Path, site: Site
) -> None:
    write_whole_pcam(tmp_path)
    _, rows = tiled("pcam", tmp_path, site)
    assert of_split(rows, "val", "slide_id") == {"camelyon16_train_normal_101"}
    assert of_split(rows, "test", "slide_id") == {"camelyon16_test_090"}
    assert len(of_split(rows, "train", "slide_id")) == 2
    assert {row["label"] for row in rows} == {"normal", "tumor"}


def test_breakhis_takes_one_magnification_by_fold_and_no_slide_is_in_two_parts(
    tmp_path: Path, site: Site
) -> None:
    write_breakhis(tmp_path)
    artifact, rows = tiled("breakhis", tmp_path, site)
    assert {row["path"].split("-")[-2] for row in rows} == {"40"}
    tested = {"-".join(Path(path).name.split("-")[:3]) for path in of_split(rows, "test")}
    assert tested == set(BREAKHIS_TEST)
    assert not any("SOB_M_DC-14-13412" in row["path"] for row in rows)
    assert len(rows) == 16
    parts = [of_split(rows, split, "slide_id") for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 8
    assert of_split(rows, "val")
    (what,) = met(artifact)
    assert "1 patient (14-13412)" in what
    assert "2 of 18 images were left out" in what
    assert {row["label"] for row in rows if "SOB_B_" in row["path"]} == {"benign"}


def test_breakhis_other_magnification_is_one_override(tmp_path: Path, site: Site) -> None:
    write_breakhis(tmp_path)
    _, rows = tiled("breakhis", tmp_path, site, "sources.0.magnification=200")
    assert {row["path"].split("-")[-2] for row in rows} == {"200"}


def drop_a_line(data: Path) -> None:
    path = data / "mkfold" / "dsfold1.txt"
    path.write_text(path.read_text().replace("SOB_B_F-14-9133-40-001.png|40|1|train\n", ""))


def drop_an_image(data: Path) -> None:
    next(data.rglob("SOB_B_F-14-9133-40-002.png")).unlink()


def spoil_a_line(data: Path) -> None:
    path = data / "mkfold" / "dsfold1.txt"
    path.write_text(path.read_text().replace("|40|1|train", ";40;1;train", 1))


def double_a_line(data: Path) -> None:
    path = data / "mkfold" / "dsfold1.txt"
    path.write_text(path.read_text() + "SOB_B_F-14-9133-40-001.png|40|1|test\n")


def drop_the_lists(data: Path) -> None:
    (data / "mkfold" / "dsfold1.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_line, r"lacks SOB_B_F-14-9133-40-001\.png \(1 such images of 40X\)"),
        (drop_an_image, r"lists SOB_B_F-14-9133-40-002\.png \(1 such images of 40X\)"),
        (spoil_a_line, r"dsfold1\.txt: line 1: .*fetch the list again"),
        (double_a_line, r"dsfold1\.txt: line \d+: SOB_B_F-14-9133-40-001\.png is listed twice"),
        (drop_the_lists, r"dsfold1\.txt cannot be read .*or set fold: null"),
    ],
)
def test_breakhis_fold_list_that_does_not_fit_names_the_image_and_the_fix(
    tmp_path: Path, site: Site, damage: Callable[[Path], None], message: str
) -> None:
    write_breakhis(tmp_path, (40,))
    damage(tmp_path)
    with pytest.raises(ConfigError, match=message):
        tiled("breakhis", tmp_path, site)


CHAOYANG = {"train": ["535940", "535941", "535953", "s7"], "test": ["535953", "s9"]}


def test_chaoyang_is_tested_as_published_and_says_how_many_slides_are_in_both_parts(
    tmp_path: Path, site: Site
) -> None:
    write_chaoyang(tmp_path, CHAOYANG)
    artifact, rows = tiled("chaoyang", tmp_path, site)
    assert of_split(rows, "test") == {row["path"] for row in rows if row["path"].startswith("test")}
    assert len(of_split(rows, "test")) == 8
    assert len(rows) == 24
    assert of_split(rows, "test", "slide_id") == {"535953@test", "s9"}
    assert of_split(rows, "val", "slide_id") <= set(CHAOYANG["train"])
    assert of_split(rows, "val", "slide_id")
    assert not of_split(rows, "val", "patient_id") & of_split(rows, "train", "patient_id")
    shared = [what for what in met(artifact) if "published splits" in what]
    assert ["4 of 16 images" in shared[0], "4 of 8 images" in shared[1]] == [True, True]
    assert all("1 patient (535953)" in what for what in shared)
    labels = {row["path"]: row["label"] for row in rows}
    assert labels["train/535940-IMG003x026-3.JPG"] == "adenoma"


def test_chaoyang_leave_out_keeps_the_test_whole_and_takes_its_slides_out_of_the_training(
    tmp_path: Path, site: Site
) -> None:
    write_chaoyang(tmp_path, CHAOYANG)
    _, rows = tiled("chaoyang", tmp_path, site, "split.shared=leave_out")
    assert len(of_split(rows, "test")) == 8
    assert of_split(rows, "test", "slide_id") == {"535953", "s9"}
    assert len(rows) == 20
    assert "train/535953-IMG000x026-0.JPG" not in {row["path"] for row in rows}


def test_chaoyang_refuse_names_the_slide_and_both_parts(tmp_path: Path, site: Site) -> None:
    write_chaoyang(tmp_path, CHAOYANG)
    with pytest.raises(ConfigError, match=r"1 patient in two parts, such as '535953' in test \(4"):
        tiled("chaoyang", tmp_path, site, "split.shared=refuse")


def test_pannuke_parts_its_folds_and_labels_by_tissue(tmp_path: Path, site: Site) -> None:
    write_whole_pannuke(tmp_path)
    _, rows = tiled("pannuke", tmp_path, site)
    for fold, split in ((1, "train"), (2, "val"), (3, "test")):
        assert {path.split("/")[1] for path in of_split(rows, split)} == {f"fold{fold}"}
        assert of_split(rows, split, "label") == set(TISSUES)
    assert len({row["slide_id"] for row in rows}) == 9


def test_a_second_test_beside_a_published_one_is_refused(tmp_path: Path, site: Site) -> None:
    with pytest.raises(ConfigError, match=r"sources\.1 has a published test; set split\.test: 0"):
        tiled("nct_crc", tmp_path, site, "split.test=0.2")


def test_traps_are_in_manifest_and_page_and_have_no_identity(tmp_path: Path, site: Site) -> None:
    write_whole_pannuke(tmp_path)
    artifact, _ = tiled("pannuke", tmp_path, site, "name=a")
    bare, _ = tiled("pannuke", tmp_path, site, "name=b", "sources.0.traps=[]")
    assert bare.manifest.fingerprint == artifact.manifest.fingerprint
    assert len(bare.manifest.contents["traps"]) == 3  # folds smaller than published
    page, bare_page = (
        (item.path / "cohort.html").read_bytes().decode() for item in (artifact, bare)
    )
    for trap in artifact.manifest.contents["traps"]:
        assert trap["source"] in page
    assert "There are no slide or patient ids" in page
    assert "There are no slide or patient ids" not in bare_page


def test_traps_are_told_once(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    write_pathmnist(tmp_path)
    artifact, _ = tiled("pathmnist", tmp_path, site)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    traps = artifact.manifest.contents["traps"]
    assert told == [f"{trap['data']}: {trap['what']} ({trap['source']})" for trap in traps]
    assert len(told) == 3
    caplog.clear()
    tiled("pathmnist", tmp_path, site)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no list of objects"),
        ('{"name": "a.png"}', "is no list of objects"),
        ('["a.png"]', "is no list of objects"),
        ("[{", "give the path of a JSON list"),
        ('[{"label": 0}]', "has no column 'name'; its columns are label"),
        ('[{"name": "a.png"}, {"label": 1}]', "object 1: 'label' is empty"),
        ('[{"name": "5-IMG1x1-0.JPG", "label": 0}]', "lists '5-IMG1x1-0.JPG', which is not there"),
    ],
)
def test_json_list_that_does_not_fit_says_why(
    tmp_path: Path, site: Site, text: str, message: str
) -> None:
    write_picture(tmp_path / "a.png", 64, 64)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        tiled("chaoyang", tmp_path, site)


def test_csv_column_of_published_splits_is_kept_and_counts_in_the_fingerprint(
    tmp_path: Path, site: Site
) -> None:
    def write(last: str) -> None:
        splits = ["train", "train", "valid", last]
        lines = [f"p{number}.png,{split}" for number, split in enumerate(splits)]
        (tmp_path / "patches.csv").write_text("path,fold\n" + "\n".join(lines) + "\n")

    for number in range(4):
        write_picture(tmp_path / f"p{number}.png", 64, 64)
    values = {
        "name": "listed", "version": "v1", "data": str(tmp_path), "mpp": 0.5, "patch_px": 64,
        "sources": [{"type": "csv", "columns": {"split": "fold"}, "mpp": 0.5, "fit": "crop"}],
        "split": {"val": 0.2, "test": 0.0, "seed": 0},
    }  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(values))
    write("test")
    first = tile(load_config(TileConfig, config), site)
    rows = PatchIndex.open(first.path).patches.to_pylist()
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    write("val")
    second = tile(load_config(TileConfig, config, ["version=v2"]), site)
    assert second.manifest.fingerprint != first.manifest.fingerprint
    write("held-out")
    with pytest.raises(ConfigError, match="line 5: fold is 'held-out'; write train, val or test"):
        tile(load_config(TileConfig, config, ["version=v3"]), site)
