"""Smallest configs of guide..classify on the artifacts of ``labelled_chain``."""

from typing import Any

from histodiff.config import parse_config
from histodiff.workflows.ceiling import CeilingConfig
from histodiff.workflows.classify import ClassifyConfig
from histodiff.workflows.guide import GuideConfig
from histodiff.workflows.select import SelectConfig
from histodiff.workflows.synthesize import SynthesizeConfig
from tests.support.optimization import optimization

BUDGET = {"type": "slides_per_class", "count": 2}


def guide_config(**changes: Any) -> GuideConfig:
    values = {
        "name": "toy", "version": "v1", "latents": "toy@v1", "denoiser": "toy@v1",
        "budget": BUDGET,
        "kind": {
            "type": "latent",
            "network": {"channels": [8], "head_dim": 8},
            "training": {
                **optimization(steps=3, batch=4, lr=1.0e-3),
                "noise": {"type": "log_uniform", "sigma_min": 0.05, "sigma_max": 5.0},
            },
        },
        "num_bins": 2, "threads": 1, "seed": 0,
    }  # fmt: skip
    return parse_config(GuideConfig, {**values, **changes}, source="test")


def synthesize_config(**changes: Any) -> SynthesizeConfig:
    values = {
        "name": "toy", "version": "v1", "guide": "toy@v1", "denoiser": "toy@v1",
        "autoencoder": "toy@v1", "per_class": 5,
        "guidance": {"scale": 1.0, "sigma_interval": [0.05, 5.0]},
        "sampler": {"type": "euler"}, "schedule": {"type": "karras", "steps": 3},
        "batch": 4, "shard_size": 4, "threads": 1, "seed": 0,
    }  # fmt: skip
    return parse_config(SynthesizeConfig, {**values, **changes}, source="test")


def classify_config(**changes: Any) -> ClassifyConfig:
    values = {
        "name": "real", "version": "v1", "patches": "toy@v1", "budget": BUDGET,
        "backbone": {"model": "test_resnet", "pretrained": {"type": "none"}, "input_px": 32},
        "training": optimization(steps=8, batch=8, lr=3.0e-3),
        "bootstrap": 50, "threads": 1, "seed": 0,
    }  # fmt: skip
    return parse_config(ClassifyConfig, {**values, **changes}, source="test")


def ceiling_config(**changes: Any) -> CeilingConfig:
    values = {
        "name": "toy", "version": "v1", "patches": "toy@v1", "autoencoders": ["toy@v1"],
        "posterior": "mean", "budget": {"type": "slides_per_class", "count": 1},
        "synthetic_ratio": 1.0, "threads": 1, "seeds": [0, 1, 2],
        "backbone": {"model": "test_resnet", "pretrained": {"type": "none"}, "input_px": 32},
        "training": optimization(steps=4, batch=8, lr=3.0e-3),
    }  # fmt: skip
    return parse_config(CeilingConfig, {**values, **changes}, source="test")


def select_config(**changes: Any) -> SelectConfig:
    values = {
        "name": "toy", "version": "v1", "samples": "toy@v1", "patches": "toy@v1",
        "budget": BUDGET, "threads": 1, "seed": 0,
        "rule": {
            "type": "centroid", "classifier": "real@v1", "max_per_class": 100, "oversampling": 0,
        },
    }  # fmt: skip
    return parse_config(SelectConfig, {**values, **changes}, source="test")
