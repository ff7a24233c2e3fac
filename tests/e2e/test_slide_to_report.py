"""The demo at the smallest size at which every step still does its work."""

import json

import pytest

from histodiff.artifacts import Kind
from histodiff.cluster.site import Site
from histodiff.workflows.demo import demo
from histodiff.workflows.fetch import GeneratedSize

pytestmark = pytest.mark.e2e

SIZE = GeneratedSize(slides=3, size_px=1024, slides_per_class=5, patches_per_slide=6)
SWEEP = "steps.sweep.overrides"
TINY = [
    "steps.autoencoder.overrides.mode.train.images=160",
    "steps.autoencoder.overrides.mode.train.rate.warmup_images=8",
    "steps.autoencoder.overrides.mode.architecture.channels=[8,16,16]",
    "steps.autoencoder.overrides.threads=1",
    "steps.denoiser.config=pretrain/tiny.yaml",
    "steps.denoiser.overrides.train.images=256",
    "steps.denoiser.overrides.train.rate.warmup_images=64",
    "steps.denoiser.overrides.validation.every_images=128",
    f"{SWEEP}.seeds=[0,1]",
    f"{SWEEP}.search.guidance_scale.values=[1.0]",
    f"{SWEEP}.search.synthetic_ratio.values=[0.5]",
    f"{SWEEP}.steps.guide.overrides.kind.training.images=320",
    f"{SWEEP}.steps.synthesize.overrides.per_class=6",
    f"{SWEEP}.steps.synthesize.overrides.schedule.steps=3",
    *(
        f"{SWEEP}.steps.{step}.overrides.training.images=160"
        for step in ("real", "random", "selected")
    ),
    *(
        f"{SWEEP}.steps.{step}.overrides.threads=1"
        for step in (
            "guide", "real", "synthesize", "select", "select_random", "random", "selected",
        )
    ),
]  # fmt: skip


def test_demo_from_slides_to_report_and_again(tmp_path):
    site = Site(root=str(tmp_path), ray={"type": "none"}, device="cpu")
    artifacts = demo(site, TINY, size=SIZE)
    kinds = [item.manifest.kind for item in artifacts]
    assert kinds == [
        Kind.PATCHES, Kind.PATCHES, Kind.AUTOENCODERS, Kind.LATENTS, Kind.LATENTS,
        Kind.DENOISERS, Kind.SWEEPS, Kind.REPORTS,
    ]  # fmt: skip
    report = artifacts[-1].path
    page = (report / "report.html").read_text()
    data = json.loads((report / "report.json").read_text())
    assert "What was not shown" in page
    assert [item["arm"] for item in data["compared"]["results"]] == [
        "real only",
        "random samples",
        "selected samples",
    ]
    assert len(data["samples"]) == 3
    again = demo(site, TINY, size=SIZE)
    assert [item.manifest for item in again] == [item.manifest for item in artifacts]
