"""One small generated slide, and patch sets of plain images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histodiff.data_prep.generated import write_generated_slides

WriteImage = Callable[[Path, int], Path]


@pytest.fixture(scope="session")
def slides_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_generated_slides(folder, count=2, seed=3, size_px=1024)
    return folder


@pytest.fixture
def write_image() -> WriteImage:
    def write(path: Path, side_px: int = 64) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(len(path.name))
        pixels = rng.integers(60, 220, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write
