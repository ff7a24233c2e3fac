"""Traps of the data sets reach every report that goes back to them."""

import json
from pathlib import Path

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import load_config, parse_config
from histodiff.config.loader import shipped_configs
from histodiff.storage import storage_path
from histodiff.workflows.report import ReportConfig, report
from histodiff.workflows.report.dataset_warnings import dataset_warnings
from histodiff.workflows.tile import TileConfig, tile
from tests.support.fabricated_run import fabricate_patches
from tests.support.published_sets import write_pathmnist


def tiled_pathmnist(data: Path, site: Site) -> Artifact:
    data.mkdir()
    write_pathmnist(data)
    config = shipped_configs() / "datasets" / "pathmnist.yaml"
    return tile(load_config(TileConfig, config, [f"data={data}"]), site)


def report_of(site: Site, name: str, patches: str) -> Artifact:
    values = {"name": name, "version": "v1", "title": "T", "patches": [patches]}
    return report(parse_config(ReportConfig, values, source="r.yaml"), site)


def test_report_repeats_the_traps_that_tile_recorded(tmp_path: Path, site: Site) -> None:
    index = tiled_pathmnist(tmp_path / "data", site)
    made = report_of(site, "r", "pathmnist@v1")
    page = (made.path / "report.html").read_bytes().decode()
    (warned,) = json.loads((made.path / "report.json").read_bytes())["dataset_warnings"]
    assert warned == {"name": "patches/pathmnist@v1", "traps": index.manifest.contents["traps"]}
    assert len(warned["traps"]) == 3
    assert '<a href="#traps">' in page
    for trap in warned["traps"]:
        assert trap["what"] in page
        assert f"({trap['source']})" in page


def test_traps_are_found_by_way_of_what_was_made_of_the_data(tmp_path: Path, site: Site) -> None:
    tiled_pathmnist(tmp_path / "data", site)
    made = report_of(site, "r", "pathmnist@v1")
    root = storage_path(site.root)
    (found,) = dataset_warnings(root, [made])
    assert (found.name, len(found.traps)) == ("patches/pathmnist@v1", 3)


def test_an_index_from_before_has_no_traps_and_the_page_no_section(
    tmp_path: Path, site: Site
) -> None:
    fabricate_patches(Path(site.root), tmp_path / "images")
    made = report_of(site, "r", "target@v1")
    assert "Known traps" not in (made.path / "report.html").read_bytes().decode()
    assert json.loads((made.path / "report.json").read_bytes())["dataset_warnings"] == []
