"""A small timm network whose weights lie in a file, as pretrained ones do."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from histodiff.storage import sha256_of, storage_path


def timm_extractor(folder: Path) -> dict[str, Any]:
    """Config of an extractor of type `timm`, for images of 32 px."""
    place = folder / "weights.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), place)
    weights = {"type": "file", "path": str(place), "sha256": sha256_of(storage_path(str(place)))}
    return {"type": "timm", "model": "test_resnet", "pretrained": weights, "input_px": 32}
