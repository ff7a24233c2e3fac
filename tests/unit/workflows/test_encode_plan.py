"""What ``plan`` says of an encode config against the store that the command writes."""

import json

import numpy as np
import pytest
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.errors import ConfigError
from histodiff.latents import LatentStore
from histodiff.storage import file_sizes, list_names, storage_path
from histodiff.workflows import inspect
from histodiff.workflows.encode.command import encode, estimate, speed
from histodiff.workflows.encode.speed import SPEED
from histodiff.workflows.plan import Rates, plan
from histodiff.workflows.plan_table import described
from histodiff.workflows.registry import COMMANDS, load
from histodiff.workflows.resolution import ResolvedStep
from tests.support.encode_inputs import PATCH_PX, encode_config, write_inputs


@pytest.fixture
def site(tmp_path):
    made = Site(root=str(tmp_path / "runs"), ray={"type": "none"}, device="cpu")
    write_inputs(made.storage_root, tmp_path / "images")
    return made


def planned(config, site, **options):
    step = ResolvedStep("encode", load(COMMANDS["encode"]), config, ())
    return plan([step], site, rates=options.pop("rates", Rates()), **options)


def test_objects_and_bytes_are_those_of_the_run(site):
    config = encode_config()
    expected = estimate(config, site)
    sizes = file_sizes(encode(config, site).path)
    assert expected["objects"] == len(sizes)
    assert expected["bytes"] == pytest.approx(sum(sizes.values()), rel=0.02)


def test_pictures_of_quarantined_patches_are_within_their_bound(site, tmp_path):
    for number in (0, 5):
        one_colour = Image.new("RGB", (PATCH_PX, PATCH_PX))
        one_colour.save(tmp_path / "images" / f"{number:03d}.png")
    config = encode_config()
    expected = estimate(config, site)
    sizes = file_sizes(encode(config, site).path)
    pictures = [size for name, size in sizes.items() if name.endswith(".png")]
    assert len(pictures) == 2 == len(sizes) - expected["objects"]
    assert len(pictures) <= expected["most_picture_objects"] == int(0.1 * 45)
    assert sum(pictures) <= expected["most_picture_bytes"]
    none = estimate(encode_config(max_failed_fraction=0.0), site)
    assert none["most_picture_objects"] == none["most_picture_bytes"] == 0


def test_keeping_the_lease_is_counted_where_the_time_is_known(site):
    config = encode_config()
    without = estimate(config, site)
    rates = Rates(patches_per_second=45 / 100.0)
    found = planned(config, site, rates=rates).totals
    for kind, renewals in (("puts", 10), ("gets", 0), ("lists", 10)):
        assert found[f"{kind}_requests"] == without[f"{kind}_requests"] + renewals
    assert found["requests"] == without["requests"] + 20


def test_measuring_encodes_a_sample_and_leaves_nothing_behind(site):
    config = encode_config()
    before = file_sizes(site.storage_root)
    found = planned(config, site, measure_seconds=0.001)
    assert file_sizes(site.storage_root) == before
    assert list_names(site.storage_root) == ["autoencoders", "patches"]
    took = found.times["encode"]
    assert took.speed.patches_per_second > 0
    assert "2 shards" in took.speed.source
    assert found.totals["hours"] == pytest.approx(took.seconds / 3600)


def test_measuring_too_small_a_store_is_refused(site):
    config = encode_config(store={"rows_per_shard": 64, "rows_per_chunk": 4})
    with pytest.raises(ConfigError, match="0 full shards are too few for 1 encoders"):
        planned(config, site, measure_seconds=1.0)
    assert list_names(site.storage_root) == ["autoencoders", "patches"]


def test_the_newest_fitting_run_gives_the_speed_and_is_named(site):
    assert speed(encode_config(), site, measure_seconds=None) is None
    for version in ("v1", "v2"):
        encode(encode_config(version=version), site)
    for version, finished, rate in (("v1", "2031-01-01", 50.0), ("v2", "2030-01-01", 60.0)):
        place = storage_path(site.root) / "latents" / "latents" / version / "manifest.json"
        manifest = json.loads(place.read_bytes())
        manifest["provenance"][SPEED] |= {"finished": finished, "patches_per_second": rate}
        place.write_bytes(json.dumps(manifest).encode())
    found = speed(encode_config(version="v3", seed=9), site, measure_seconds=None)
    assert found.patches_per_second == 50.0
    assert "latents/latents@v1" in found.source
    assert speed(encode_config(version="v3", batch=8), site, measure_seconds=None) is None


def test_rates_of_the_user_win(site):
    encode(encode_config(), site)
    rates = Rates(patches_per_second=5.0, startup_seconds=3.0)
    found = planned(encode_config(version="v2"), site, rates=rates)
    assert found.times["encode"].seconds == pytest.approx(3.0 + 45 / 5.0)
    assert found.times["encode"].speed.source == "rates"


def test_the_table_says_what_is_not_known(site):
    shown = described(planned(encode_config(), site))
    assert "not known: add --measure" in shown
    assert "the site gives no `prices`" in shown
    assert "patches         45" in shown


def test_the_manifest_has_the_statistics_of_the_store_and_inspect_shows_them(site):
    artifact = encode(encode_config(), site)
    store = LatentStore.open(artifact.path)
    found = artifact.manifest.contents["statistics"]
    moments = store.read_rows(store.valid_rows).astype(np.float64)
    means = moments[:, : store.latent_channels]
    assert found["rows"] == len(moments)
    assert found["variance_of_means"] == pytest.approx(means.var(axis=(0, 2, 3)), rel=1e-10)
    shown = inspect.described(inspect.inspect(str(artifact.reference), site))
    assert f"latents of {len(moments)} rows" in shown
    assert f"{float(means[:, 0].std()):.4g}" in shown
    assert "variance_of_means" not in shown
