"""DICOM slides of several files, as scanners write them: levels and a label of one series."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from tests.support.tiff_slides import TILE_PX, Pixels

_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_series(
    folder: Path,
    stem: str,
    levels: Sequence[Pixels],
    *,
    mpp: float,
    others: Sequence[str] = ("LABEL",),
    series: str | None = None,
    frames: Sequence[bytes] | None = None,
) -> list[Path]:
    """Writes levels, largest first, as ``<stem>-<n>.dcm``, and other images as ``<stem>-<kind>``.

    ``frames`` are the JPEG tiles of the first level, row by row, instead of its pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid, frame_of_reference = series or generate_uid(), generate_uid()
    paths = []
    for number, level in enumerate(levels):
        kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        if number:
            kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        path = folder / f"{stem}-{number}.dcm"
        own = mpp * levels[0].shape[1] / level.shape[1]
        tiles = jpeg_tiles(level) if frames is None or number else list(frames)
        _write(path, level.shape, tiles, kind, uid, frame_of_reference, own)
        paths.append(path)
    for kind in others:
        path = folder / f"{stem}-{kind.lower()}.dcm"
        small = cv2.resize(levels[0], (96, 64), interpolation=cv2.INTER_AREA)
        image_type = ["ORIGINAL", "PRIMARY", kind, "NONE"]
        _write(path, small.shape, jpeg_tiles(small), image_type, uid, frame_of_reference, 25.0)
        paths.append(path)
    return paths


def jpeg_tiles(pixels: Pixels) -> list[bytes]:
    """Tiles as JPEG, those at the border filled up with white."""
    tiles = []
    for top in range(0, pixels.shape[0], TILE_PX):
        for left in range(0, pixels.shape[1], TILE_PX):
            tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
            part = pixels[top : top + TILE_PX, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            stream = BytesIO()
            Image.fromarray(tile).save(stream, "JPEG", quality=90, subsampling="4:2:2")
            tiles.append(stream.getvalue())
    return tiles


def _write(
    path: Path,
    shape: tuple[int, ...],
    tiles: list[bytes],
    image_type: list[str],
    series: str,
    frame_of_reference: str,
    mpp: float,
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _SLIDE_CLASS
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    item = Dataset()
    item.file_meta = meta
    item.SOPClassUID, item.SOPInstanceUID = _SLIDE_CLASS, meta.MediaStorageSOPInstanceUID
    item.Modality = "SM"
    item.StudyInstanceUID, item.SeriesInstanceUID = generate_uid(entropy_srcs=[series]), series
    item.FrameOfReferenceUID = frame_of_reference
    item.ImageType, item.ContainerIdentifier = image_type, path.stem
    item.Rows = item.Columns = TILE_PX
    item.TotalPixelMatrixRows, item.TotalPixelMatrixColumns = shape[:2]
    item.NumberOfFrames, item.SamplesPerPixel = len(tiles), 3
    item.PhotometricInterpretation, item.PlanarConfiguration = "YBR_FULL_422", 0
    item.BitsAllocated = item.BitsStored = 8
    item.HighBit, item.PixelRepresentation = 7, 0
    item.DimensionOrganizationType = "TILED_FULL"
    item.TotalPixelMatrixFocalPlanes = item.NumberOfOpticalPaths = 1
    measures, shared, optical = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared.PixelMeasuresSequence = Items([measures])
    item.SharedFunctionalGroupsSequence = Items([shared])
    optical.OpticalPathIdentifier = "0"
    item.OpticalPathSequence = Items([optical])
    item.PixelData = encapsulate(tiles, has_bot=True)
    item["PixelData"].is_undefined_length = True
    item["PixelData"].VR = "OB"
    pydicom.dcmwrite(path, item, enforce_file_format=True)
