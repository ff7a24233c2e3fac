"""Small copies of public data sets: few images, names and folders as published."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.array_files import (
    random_patches,
    write_medmnist,
    write_pannuke,
    write_pcam,
)

NCT_CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
NCT_IDS = ("AAAFLCLY", "AAAVHWHV", "AAAWMSFI", "AACRDGDP", "AACTFDNP", "AADWDVFI")
VAL_IDS = ("AAICEQFN", "AAKTCYHC", "AAWDNKDK")
BREAKHIS = {
    "SOB_B_A-14-22549AB": "benign/SOB/adenosis",
    "SOB_B_F-14-9133": "benign/SOB/fibroadenoma",
    "SOB_B_PT-14-21998AB": "benign/SOB/phyllodes_tumor",
    "SOB_B_TA-14-3411F": "benign/SOB/tubular_adenoma",
    "SOB_M_DC-14-13412": "malignant/SOB/ductal_carcinoma",
    "SOB_M_DC-14-2523": "malignant/SOB/ductal_carcinoma",
    "SOB_M_LC-14-13412": "malignant/SOB/lobular_carcinoma",
    "SOB_M_MC-14-10147": "malignant/SOB/mucinous_carcinoma",
    "SOB_M_PC-14-9146": "malignant/SOB/papillary_carcinoma",
}
BREAKHIS_TEST = ("SOB_B_TA-14-3411F", "SOB_M_LC-14-13412", "SOB_M_PC-14-9146")
TISSUES = ("Breast", "Colon", "Adrenal_gland")


def write_nct_crc(data: Path) -> None:
    """``NCT-CRC-HE-100K/ADI/ADI-AAAFLCLY.tif`` and ``CRC-VAL-HE-7K/ADI/ADI-TCGA-AAICEQFN.tif``."""
    for label in NCT_CLASSES:
        for name in NCT_IDS:
            write_picture(data / "NCT-CRC-HE-100K" / label / f"{label}-{name}.tif", 224, 224)
        for name in VAL_IDS:
            write_picture(data / "CRC-VAL-HE-7K" / label / f"{label}-TCGA-{name}.tif", 224, 224)


def write_pathmnist(data: Path) -> None:
    """``pathmnist.npz`` with nine classes in each split."""
    parts = {
        name: (random_patches(seed, 9, 28), list(range(9)))
        for seed, name in enumerate(("train", "val", "test"))
    }
    write_medmnist(data / "pathmnist.npz", **parts)


def write_whole_pcam(data: Path) -> None:
    """Six ``.h5`` and the meta CSV of each split; slides named as in CAMELYON16."""
    names = {
        "train": ["camelyon16_train_normal_033", "camelyon16_train_tumor_001"] * 4,
        "valid": ["camelyon16_train_normal_101"] * 4,
        "test": ["camelyon16_test_090"] * 4,
    }
    for seed, (split, slides) in enumerate(names.items()):
        count = len(slides)
        write_pcam(data, split, random_patches(seed, count, 96), [0, 1] * (count // 2), slides)


def write_breakhis(data: Path, magnifications: Sequence[int] = (40, 200)) -> None:
    """``BreaKHis_v1/histology_slides/breast/...`` and ``mkfold/dsfold1.txt``."""
    root = data / "BreaKHis_v1" / "histology_slides" / "breast"
    lines = []
    for slide, folder in BREAKHIS.items():
        kind, _, number = slide.partition("-")
        for magnification in magnifications:
            for serial in (1, 2):
                name = f"{slide}-{magnification}-{serial:03d}.png"
                place = root / folder / f"{kind}_{number}" / f"{magnification}X"
                write_picture(place / name, 350, 230)
                part = "test" if slide in BREAKHIS_TEST else "train"
                lines.append(f"{name}|{magnification}|1|{part}")
    (data / "mkfold").mkdir(parents=True)
    (data / "mkfold" / "dsfold1.txt").write_text("\n".join(lines) + "\n")


def write_chaoyang(data: Path, slides: Mapping[str, Sequence[str]]) -> None:
    """``train.json``, ``test.json`` and the images that they list, of these slides."""
    for split, ids in slides.items():
        rows = []
        for slide in ids:
            for label in range(4):
                name = f"{split}/{slide}-IMG{label:03d}x026-{label}.JPG"
                write_picture(data / name, 512, 512)
                rows.append({"name": name, "label": label})
        (data / f"{split}.json").write_text(json.dumps(rows))


def write_whole_pannuke(data: Path) -> None:
    """``Fold 1/images/fold1/{images,types}.npy`` and the masks, of three folds."""
    for fold in (1, 2, 3):
        pixels = random_patches(fold, 3, 256).astype(np.float64)
        write_pannuke(data / f"Fold {fold}" / "images" / f"fold{fold}", pixels, TISSUES)
        masks = data / f"Fold {fold}" / "masks" / f"fold{fold}"
        masks.mkdir(parents=True)
        np.save(masks / "masks.npy", np.zeros((3, 256, 256, 6)))


def write_picture(path: Path, width: int, height: int) -> None:
    """A picture that no other name has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    coarse = rng.integers(60, 220, (height // 2, width // 2, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path)
