"""Scale and objective of Aperio slides, as OpenSlide reads them from the description."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.readers.tiled_tiff import TiffReader
from histodiff.storage import storage_path


@pytest.mark.parametrize("mpp", ["0.4990", "0,4990", "5e-1", "1"])
def test_scale_of_a_description_is_the_one_of_openslide(mpp: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels, tile=(256, 256), photometric="rgb", compression="jpeg", metadata=None,
            description=f"Aperio Image Library\r\n512x512 (256x256)|AppMag = 20|MPP = {mpp}",
        )  # fmt: skip
    opened = open_slide_at(storage_path(path))
    assert isinstance(opened.reader, TiffReader)
    with openslide.OpenSlide(str(path)) as slide:
        assert opened.reader.info.mpp_x == float(slide.properties["openslide.mpp-x"])
    assert opened.reader.info.objective_power == 20
    opened.close()
