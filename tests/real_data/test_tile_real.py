"""tile on real slides and patch sets: expected outcomes are those of the data's README."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import tifffile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histodiff.artifacts import Artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.config import find_config, load_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.data_prep.index.splits import SplitConfig, assign_splits
from histodiff.data_prep.readers.image_files import decode_image
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.tissue.artefacts import black_mask, pen_mask
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig, tile

pytestmark = pytest.mark.real_data

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TCGA = "tcga-cr-7395-01a-01-ts1"


@pytest.fixture(scope="module", autouse=True)
def _data_is_there() -> None:
    assert (DATA / "README.md").is_file(), f"real data is missing: {DATA}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("runs")
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")


@pytest.fixture(scope="module")
def slides(site: Site) -> Artifact:
    changes = [f"data={DATA / 'slides'}", "sources.0.recursive=false"]
    return tile(load_config(TileConfig, find_config("tile/slides.yaml"), changes), site)


def test_every_slide_ends_as_its_readme_says(slides: Artifact) -> None:
    index = PatchIndex.open(slides.path)
    status = dict(
        zip(index.slides["slide_id"].to_pylist(), index.slides["status"].to_pylist(), strict=True)
    )
    assert status == {
        "CMU-1-Small-Region": "ok",
        TCGA: "MISSING_MPP",
        "test3-DAPI-fluor": "NO_TISSUE",
        "ezwsi_camelyon": "TOO_COARSE",
        "gcp_jpeg": "TOO_COARSE",
        "gcp_jpeg2000": "TOO_COARSE",
        "small_dicom": "UNREADABLE",
        "OS-1-detail": "ok",
        "OS-2-ndpi": "ok",
        "OS-2-vsi": "ok",
    }
    assert [issue.unit for issue in slides.manifest.failed] == ["small_dicom"]
    missing = {issue.unit: issue.detail for issue in slides.manifest.skipped}[TCGA]
    assert f"'{TCGA},<microns per pixel>'" in missing


def test_patches_of_real_slides_hold_tissue(slides: Artifact) -> None:
    index = PatchIndex.open(slides.path)
    counts = dict(
        zip(
            index.slides["slide_id"].to_pylist(),
            index.slides["num_patches"].to_pylist(),
            strict=True,
        )
    )
    assert 120 <= counts["CMU-1-Small-Region"] <= 220
    assert counts["OS-1-detail"] == 9  # it is tissue from edge to edge
    block = PatchReader(index).read(range(index.patches.num_rows))
    assert block.failures == {}
    assert np.median(block.pixels.reshape(len(block.pixels), -1).std(axis=1)) > 15


def test_a_scale_csv_gives_the_slide_without_mpp_its_patches(site: Site, tmp_path: Path) -> None:
    (tmp_path / "scale.csv").write_text(f"slide,mpp\n{TCGA},0.5\n")
    changes = [
        f"data={DATA / 'slides'}", "name=tcga", f"sources.0.pattern={TCGA}.svs",
        f"sources.0.scale_csv={tmp_path / 'scale.csv'}",
    ]  # fmt: skip
    artifact = tile(load_config(TileConfig, find_config("tile/slides.yaml"), changes), site)
    index = PatchIndex.open(artifact.path)
    assert index.slides["mpp_source"].to_pylist() == ["scale_csv"]
    assert 500 <= index.patches.num_rows <= 760


@pytest.mark.parametrize("name", ["tcga-green-pen", "tcga-red-pen", "wsi-blue-pen"])
def test_pen_is_an_artefact_and_tissue_is_not(name: str) -> None:
    pen = decode_image(storage_path(DATA / "slides/thumbnails" / f"{name}.png"))
    clean = decode_image(storage_path(DATA / "slides/thumbnails/tcga-lung-rgb.png"))
    assert (pen_mask(pen) | black_mask(pen)).mean() > 0.01
    assert (pen_mask(clean) | black_mask(clean)).mean() < 0.01


def test_splits_by_slide_take_away_what_leaks_by_patch() -> None:
    """Colour statistics tell the classes apart within slides, hardly across slides."""
    rows = list(csv.DictReader((DATA / "prostate/patches.csv").read_text().splitlines()))
    features = np.stack([_colour_statistics(DATA / "prostate" / row["path"]) for row in rows])
    labels = np.array([row["label"] for row in rows])
    slides = np.array([row["slide_id"] for row in rows])
    numbers = [str(number) for number in range(len(rows))]
    by_patch = np.mean([_accuracy(features, labels, np.array(numbers), seed) for seed in range(5)])
    by_slide = np.mean([_accuracy(features, labels, slides, seed) for seed in range(5)])
    print(f"prostate, balanced accuracy: {by_patch:.3f} by patch, {by_slide:.3f} by slide")
    assert by_patch > 0.75
    assert by_slide < 0.68
    assert by_patch - by_slide > 0.12


def _colour_statistics(path: Path) -> npt.NDArray[np.float64]:
    """Mean, deviation, correlations and a histogram of every colour: ``(57,)``."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").reduce(2), dtype=np.float64).reshape(-1, 3)
    histograms = [np.histogram(pixels[:, c], bins=16, range=(0, 256))[0] for c in range(3)]
    correlations = np.corrcoef(pixels.T)[np.triu_indices(3, 1)]
    return np.concatenate([pixels.mean(0), pixels.std(0), correlations, *histograms])


def _accuracy(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.str_],
    groups: npt.NDArray[np.str_],
    seed: int,
) -> float:
    """Balanced accuracy on the test split, with `groups` as slides."""
    label_of = dict(zip(groups.tolist(), labels.tolist(), strict=True))
    ids = sorted(label_of)
    table = pa.table(
        {"slide_id": ids, "patient_id": ids, "site": pa.array([None] * len(ids), pa.string())}
    )
    split_of = assign_splits(table, SplitConfig(val=0, test=0.3, seed=seed), labels=label_of)
    test = np.array([split_of[group] == "test" for group in groups.tolist()])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
    )
    classifier.fit(features[~test], labels[~test])
    return float(balanced_accuracy_score(labels[test], classifier.predict(features[test])))


@pytest.mark.parametrize("name", ["OS-1-detail", "OS-2-ndpi", "OS-2-vsi"])
def test_ome_slides_have_the_colours_that_tifffile_gives(name: str) -> None:
    path = DATA / "slides" / f"{name}.ome.tif"
    expected = tifffile.imread(path).astype(np.int64)
    opened = open_slide_at(storage_path(path))
    height, width = expected.shape[:2]
    found = opened.reader.read(0, 0, level=0, width=width, height=height)
    opened.close()
    assert np.abs(found - expected).mean() < 1


@pytest.mark.parametrize(
    ("config", "patches", "patients", "classes"),
    [("real_nuclei", 6_001, 40, 4), ("real_nuclei_unlabelled", 10_384, 38, 0)],
)
def test_nuclei_of_27_px_are_padded_and_divided_by_patient(
    config: str, patches: int, patients: int, classes: int, site: Site
) -> None:
    found = load_config(TileConfig, find_config(f"tile/{config}.yaml"), [f"data={DATA}"])
    artifact = tile(found, site)
    assert artifact.manifest.failed == artifact.manifest.skipped == ()
    index = PatchIndex.open(artifact.path)
    assert (index.patches.num_rows, len(index.classes)) == (patches, classes)
    pairs = set(
        zip(
            index.patches["patient_id"].to_pylist(), index.patches["split"].to_pylist(), strict=True
        )
    )
    assert len(pairs) == len({patient for patient, _ in pairs}) == patients
    row = index.patches.slice(0, 1).to_pylist()[0]
    block = PatchReader(index).read([0])
    original = decode_image(storage_path(DATA / "nuclei" / row["path"]))
    np.testing.assert_array_equal(block.pixels[0, 2:29, 2:29], original)
