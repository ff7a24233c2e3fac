"""Peak FLOP/s of known GPUs: what MFU is held against.

Numbers are those of the makers' data sheets for dense products in bf16 and fp16 with fp32
accumulation, without sparsity. fp32 is left out: there torch mixes TF32 convolutions with fp32
products, so no one number is the peak.
"""

import re

import torch

_HALF = {
    r"NVIDIA A100.*": 312e12,
    r"NVIDIA (H100 80GB HBM3|H200|GH200.*)": 989.4e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H100 NVL": 835e12,
    r"NVIDIA A40": 149.7e12,
    r"NVIDIA A10": 125e12,
    r"NVIDIA RTX A6000": 154.8e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA L4": 121e12,
    r"NVIDIA GeForce RTX 4090": 165.2e12,
    r"NVIDIA GeForce RTX 3090": 71e12,
}
"""Of bf16 and fp16, by the name that the driver gives; a slice of a GPU (MIG) has another peak."""
_HALF_PRECISIONS = ("bf16", "fp16")


def device_name(device: str) -> str:
    """The device's name for people: of a GPU the driver's, else its type."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def peak_flops(name: str, *, precision: str) -> float | None:
    """Peak FLOP/s of the device called ``name``; None where it is not known."""
    if precision not in _HALF_PRECISIONS or "MIG" in name:
        return None
    found = [peak for pattern, peak in _HALF.items() if re.fullmatch(pattern, name)]
    return found[0] if found else None
