"""``pretrain`` with its root, stores and checkpoints on S3."""

import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.models.denoiser import load_denoiser
from histodiff.workflows.pretrain import command as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import finished_store, interrupted_gang, tiny_config

pytestmark = [pytest.mark.s3]


def test_pretrain_on_s3_resumed_equals_the_local_run(s3_root, site, monkeypatch):
    remote = Site(root=str(s3_root), ray=NoRay(type="none"), device="cpu")
    for here in (site, remote):
        finished_store(here.storage_root)
    local = pretrain(tiny_config(), site)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config(), remote)
    assert (s3_root / "denoisers/tiny/1/checkpoints/step-00000004/complete.json").exists()
    resumed = pretrain(tiny_config(), remote)
    assert resumed.manifest.content_sha256 == local.manifest.content_sha256
    loaded = load_denoiser(resumed.path / "snapshots" / "last", device="cpu")
    assert loaded.info.images_seen == 192
