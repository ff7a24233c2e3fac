"""Fabricated cohorts: tables as ``tile`` writes them, and overlay pictures."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter

from histodiff.data_prep.index.cohort import DuplicateGroup, cohort_facts, overlay_thumbnail

SLIDES = pa.schema(
    [
        *((name, pa.string()) for name in ("slide_id", "patient_id", "site", "url")),
        ("size_bytes", pa.int64()), ("content_hash", pa.string()), ("vendor", pa.string()),
        ("width", pa.int64()), ("height", pa.int64()),
        ("mpp_x", pa.float64()), ("mpp_y", pa.float64()), ("mpp_source", pa.string()),
        ("objective_power", pa.float64()),
        *((f"bounds_{name}", pa.int64()) for name in ("x", "y", "width", "height")),
        ("level_downsamples", pa.list_(pa.float64())),
        *((name, pa.string()) for name in
          ("reader", "reader_version", "status", "reason", "warning", "phase")),
        ("tissue_fraction", pa.float64()), ("tissue_mm2", pa.float64()),
        *((f"num_{name}", pa.int64()) for name in
          ("patches", "pen", "blurred", "black", "white", "unreadable")),
    ]
)  # fmt: skip
PATCHES = pa.schema(
    [
        ("slide_id", pa.string()), ("patient_id", pa.string()), ("path", pa.string()),
        *((name, pa.int64()) for name in ("x", "y", "level", "read_width", "read_height")),
        *((name, pa.float64()) for name in
          ("effective_mpp_x", "effective_mpp_y", "tissue_fraction", "pen_fraction",
           "black_fraction", "white_fraction", "sharpness")),
        ("label", pa.string()), ("split", pa.string()),
    ]
)  # fmt: skip
STATUSES = ("ok", "NO_TISSUE", "MISSING_MPP", "TOO_COARSE", "TOO_SMALL", "UNREADABLE")
REASONS = {
    "NO_TISSUE": "no patch has 50% brightfield tissue free of pen",
    "MISSING_MPP": "the file states no scale; add the line to a CSV",
    "TOO_COARSE": "has 1 um/px, coarser than the wanted 0.5; it is never enlarged",
    "TOO_SMALL": "90x100 px hold no patch of 128 px; lower patch_px or mpp",
    "UNREADABLE": "the file ends in the middle of a tile",
}


def slide_row(number, rng, *, status=None):
    """A slide such as a real cohort has, mostly used."""
    status = status or str(rng.choice(STATUSES, p=[0.9, 0.02, 0.04, 0.02, 0.01, 0.01]))
    site = ("Lund", "Utrecht", "Porto")[number % 3]
    mpp = {"Lund": 0.2425, "Utrecht": 0.2525, "Porto": 0.4990}[site]
    mpp = {"MISSING_MPP": None, "UNREADABLE": None, "TOO_COARSE": 1.0}.get(status, mpp)
    used = status == "ok"
    looked = used or status == "NO_TISSUE"
    area = float(np.exp(rng.normal(4.6, 0.7)))
    patches = int(area / 0.0041) if used else 0
    lost = rng.random() < 0.15
    wrong = used and rng.random() < 0.02
    opened = status != "UNREADABLE"
    return dict.fromkeys(SLIDES.names) | {
        "slide_id": f"{site[:2].upper()}-{number // 2}-{'AB'[number % 2]}",
        "patient_id": f"{site[:2].upper()}-{number // 2}", "site": site, "url": "slides/x.svs",
        "size_bytes": int(rng.integers(2e8, 3e9)), "vendor": "aperio" if opened else None,
        "width": int(rng.integers(30_000, 120_000)) if opened else None,
        "height": int(rng.integers(20_000, 90_000)) if opened else None,
        "mpp_x": mpp, "mpp_y": mpp, "mpp_source": "openslide:aperio" if mpp else "none",
        "objective_power": (20.0 if wrong or site == "Porto" else 40.0) if opened else None,
        "reader": "openslide" if opened else None, "status": status,
        "reason": REASONS.get(status, ""), "phase": "aligned" if used else "",
        "warning": "the objective 20x contradicts 0.2425 um/px (40x)" if wrong else "",
        "tissue_fraction": float(rng.beta(2, 5)) * used if looked else None,
        "tissue_mm2": area * used if looked else None,
        "num_patches": patches,
        "num_pen": int(patches * rng.random() * 0.3) if used and lost else 0,
        "num_blurred": int(patches * rng.exponential(0.08)) if used else 0,
        "num_black": 0, "num_white": int(patches * 0.02), "num_unreadable": int(lost and used),
    }  # fmt: skip


def patch_table(slides, rng, *, per_slide=20):
    """A few patches of every used slide."""
    used = [row for row in slides if row["status"] == "ok"]
    splits = {}
    for row in used:
        splits.setdefault(row["patient_id"], str(rng.choice(["train", "val", "test"],
                                                            p=[0.7, 0.1, 0.2])))  # fmt: skip
    owners = [row for row in used for _ in range(per_slide)]
    count = len(owners)
    columns = {name: pa.nulls(count, PATCHES.field(name).type) for name in PATCHES.names}
    columns |= {
        "slide_id": pa.array([row["slide_id"] for row in owners], pa.string()),
        "patient_id": pa.array([row["patient_id"] for row in owners], pa.string()),
        "split": pa.array([splits[row["patient_id"]] for row in owners], pa.string()),
        "label": pa.array(
            [("benign", "tumour")[len(row["slide_id"] + row["patient_id"]) % 2
             ^ (int(row["patient_id"][3:]) % 3 == 0)] for row in owners], pa.string(),
        ),
        "tissue_fraction": pa.array(rng.beta(5, 1, count)),
        "pen_fraction": pa.array(np.where(rng.random(count) < 0.9, 0.0, rng.random(count) / 20)),
        "black_fraction": pa.array(np.zeros(count)),
        "white_fraction": pa.array(rng.beta(1, 6, count)),
        "sharpness": pa.array(rng.gamma(4, 60, count)),
    }  # fmt: skip
    return pa.table(columns, schema=PATCHES)


def fabricated_cohort(num_slides, *, seed=0, duplicates=True):
    """Facts of a cohort, the rows of its slides, and its table of patches."""
    rng = np.random.default_rng(seed)
    rows = [slide_row(number, rng) for number in range(num_slides)]
    patches = patch_table(rows, rng)
    used = [row["slide_id"] for row in rows if row["status"] == "ok"]
    groups = [DuplicateGroup((used[0], used[2]), "same file")] if duplicates else []
    facts = cohort_facts(
        pa.Table.from_pylist(rows, SLIDES), [patches],
        name="breast@v1", mpp=0.5, patch_px=128, duplicates=groups,
    )  # fmt: skip
    return facts, rows, patches


def overlay_picture(number, *, side=320):
    """Something like an overlay: tissue with texture and blue squares; PNG, each different."""
    rng = np.random.default_rng(number)
    shape = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(shape)
    for x, y, r in zip(*rng.integers(side // 5, side * 4 // 5, (2, 7)),
                       rng.integers(side // 12, side // 5, 7), strict=True):  # fmt: skip
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    inside = np.asarray(shape.filter(ImageFilter.GaussianBlur(3))) / 255.0
    texture = np.kron(rng.normal(0, 26, (side // 4, side // 4)), np.ones((4, 4)))
    tissue = np.array([196.0, 120.0, 168.0]) + texture[..., None]
    pixels = 243 + (tissue - 243) * inside[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for x in range(0, side, 12):
        for y in range(0, side, 12):
            if inside[min(y + 6, side - 1), min(x + 6, side - 1)] > 0.5:
                draw.rectangle((x, y, x + 12, y + 12), outline=(20, 90, 200))
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def thumbnails_of(rows):
    """A picture of its own for every slide whose pixels were looked at."""
    return {
        row["slide_id"]: overlay_thumbnail(overlay_picture(number))
        for number, row in enumerate(rows)
        if row["status"] in ("ok", "NO_TISSUE")
    }
