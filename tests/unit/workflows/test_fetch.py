from pathlib import Path

import pytest

from histodiff.errors import ConfigError
from histodiff.workflows.fetch import GeneratedSize, fetch

SMALL = GeneratedSize(slides=1, size_px=1024, slides_per_class=1, patches_per_slide=2, patch_px=32)


def test_fetch_generated_writes_slides_and_labels_and_goes_on_where_it_was(tmp_path: Path) -> None:
    slides, labelled = fetch("generated", tmp_path, size=SMALL)
    (slide,) = slides.glob("*.svs")
    assert labelled.read_text().startswith("path,label,slide_id\n")
    written = slide.stat().st_mtime_ns
    content = labelled.read_bytes()
    labelled.unlink()
    assert fetch("generated", tmp_path, size=SMALL) == [slides, labelled]
    assert slide.stat().st_mtime_ns == written
    assert labelled.read_bytes() == content


def test_fetch_into_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generated.json").write_text("{}\n")
    with pytest.raises(ConfigError, match="other settings; choose another"):
        fetch("generated", tmp_path, size=SMALL)


def test_fetch_of_an_unknown_data_set_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nothing'.*generated"):
        fetch("nothing", tmp_path)
