"""Artifacts of a tiny labelled target, made once and copied for every test that wants them."""

import shutil
from pathlib import Path

import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.workflows.classify import classify
from histodiff.workflows.guide import guide
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_chain
from tests.support.labelled_configs import classify_config, guide_config, synthesize_config


@pytest.fixture(scope="session")
def _encoded_root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    make_chain(_site_at(folder / "runs"), folder / "images")
    return folder / "runs"


@pytest.fixture(scope="session")
def _sampled_root(tmp_path_factory, _encoded_root) -> Path:
    root = tmp_path_factory.mktemp("sampled") / "runs"
    shutil.copytree(_encoded_root, root)
    guide(guide_config(), _site_at(root))
    synthesize(synthesize_config(per_class=12), _site_at(root))
    classify(classify_config(), _site_at(root))
    return root


@pytest.fixture
def encoded(site, _encoded_root) -> Site:
    """A site with patches, autoencoder, latents and denoiser, each ``toy@v1``."""
    shutil.copytree(_encoded_root, site.root)
    return site


@pytest.fixture
def sampled(site, _sampled_root) -> Site:
    """As ``encoded``, with guide and samples ``toy@v1`` and the classifier ``real@v1``."""
    shutil.copytree(_sampled_root, site.root)
    return site


def _site_at(root: Path) -> Site:
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")
