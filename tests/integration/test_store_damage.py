"""What can happen to a finished store, and who names it: the reader, or ``verify``.

Every case damages a copy of one real store; a line per case is printed (``pytest -s``).
"""

import json
import shutil
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ArtifactError
from histodiff.latents import LatentMixture, LatentStore
from histodiff.latents.codec import shard_bytes, shard_moments
from histodiff.latents.finish import finish_store
from histodiff.latents.layout import ledger_name, shard_name
from histodiff.latents.writer import read_ledger
from histodiff.storage import storage_path
from histodiff.workflows.encode import encode
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import (
    encode_config,
    write_autoencoder,
    write_inputs,
)

STORE = "latents/latents/v1"
ALL_ROWS = 45


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a store and its inputs."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    write_inputs(storage_path(root), root.parent / "images")
    encode(encode_config(), site_at(root))
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def site_at(root: Path) -> Site:
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")


def delete_shard(root: Path) -> None:
    (root / STORE / shard_name(4)).unlink()


def delete_inner_chunk(root: Path) -> None:
    """Marks it absent in the shard's index, whose checksum is made to fit."""
    change_shard(root, 2, lambda data: with_index(data, 1, b"\xff" * 16))


def flip_byte(root: Path) -> None:
    change_shard(root, 3, lambda data: data[:17] + bytes([data[17] ^ 4]) + data[18:])


def flip_byte_of_index(root: Path) -> None:
    change_shard(root, 3, lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])


def drop_ledger_file(root: Path) -> None:
    (root / STORE / ledger_name(1)).unlink()


def edit_ledger_file(root: Path) -> None:
    edit_json(root / STORE / ledger_name(1), lambda record: record.update(rows=7))


def swap_encoder(root: Path) -> None:
    """Other weights under the same name, properly written."""
    shutil.rmtree(root / "autoencoders/kl/v1")
    write_autoencoder(storage_path(root), seed=5)


def swap_weights(root: Path) -> None:
    """Other weights, and the digests of those before."""
    place = root / "autoencoders/kl/v1"
    before = (place / "autoencoder.json").read_bytes()
    swap_encoder(root)
    (place / "autoencoder.json").write_bytes(before)


def edit_encoder_attribute(root: Path) -> None:
    edit_attributes(root, encoder_sha256="f" * 64)


def edit_scale(root: Path) -> None:
    edit_attributes(root, mpp=0.25)


def whiten_openly(root: Path) -> None:
    edit_attributes(root, state="whitened")


def whiten_behind_the_back(root: Path) -> None:
    """Whitened moments in a store whose tables, digests and manifest all agree with them."""
    folder = root / STORE
    store = LatentStore.open(storage_path(folder))
    records = {}
    for shard, record in read_ledger(store.path).items():
        place = folder / shard_name(shard)
        moments = shard_moments(store.layout, shard, place.read_bytes())
        white = ((moments - moments.mean()) / moments.std()).astype(np.float16)
        data = shard_bytes(store.layout, shard, white)
        place.write_bytes(data)
        digest = sha256(data).hexdigest()
        edit_json(folder / ledger_name(shard), lambda found, d=digest: found.update(sha256=d))
        records[shard] = record.model_copy(update={"sha256": digest})
    digests = finish_store(
        store.path, store.layout, patches=patch_table(root), records=records,
        patch_of_row=store.rows["patch"].to_numpy(),
    )  # fmt: skip
    changed = {"files": digests.files, "content_sha256": digests.content}
    edit_json(folder / "manifest.json", lambda manifest: manifest.update(changed))


def drop_plan(root: Path) -> None:
    (root / STORE / "plan.json").unlink()


DAMAGES: list[tuple[Callable[[Path], None], str | None, str]] = [
    (delete_shard, r"moments/c/4/0/0/0: shard is missing", "moments/c/4/0/0/0: missing"),
    (delete_inner_chunk, r"4 rows \(20, 21.*moments/c/2/0/0/0",
     "moments/c/2/0/0/0: inner chunks [1] are missing"),
    (flip_byte, None, "moments/c/3/0/0/0: sha256 is not the one in the manifest"),
    (flip_byte_of_index, r"rows 0\.\.45", "moments/c/3/0/0/0: sha256 is not the one in"),
    (drop_ledger_file, None, "ledger/00000001.json: missing"),
    (edit_ledger_file, None, "ledger/00000001.json: records other counts than shards.parquet"),
    (swap_encoder, None, "autoencoders/kl@v1: has encoder "),
    (swap_weights, None, "autoencoders/kl@v1: "),
    (edit_encoder_attribute, r"was encoded by encoder ffffffffffff", "zarr.json: says encoder fff"),
    (edit_scale, r"mpp=.*a mixture needs one scale", "zarr.json: sha256 is not the one in"),
    (whiten_openly, r"(?s)is not a latent store.*state.*raw", "is not a latent store"),
    (whiten_behind_the_back, None, "moments/c/0/0/0/0: row 0 is not what encoder "),
    (drop_plan, None, "plan.json: missing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "reader", "expected"), DAMAGES, ids=[damage.__name__ for damage, _, _ in DAMAGES]
)
def test_damage_is_named(
    whole: Path, root: Path, damage: Callable[[Path], None], reader: str | None, expected: str
) -> None:
    damage(root)
    problems = verify("latents/latents@v1", site_at(root), reencode=ALL_ROWS)
    assert any(expected in line for line in problems), problems
    by_reader = "-"
    if reader is not None:
        with pytest.raises(ArtifactError, match=reader) as refused:
            read_with(whole, root)
        by_reader = " ".join(str(refused.value).split()).replace(str(root), "")
    print(f"{damage.__name__:24} | reader: {by_reader[:90]} | verify: {problems[0][:120]}")


def test_rows_whose_pixels_have_changed_are_named(whole: Path, root: Path) -> None:
    """One image is another one now: the row of its patch and no other does not fit."""
    images = whole.parent / "images"
    before = (images / "000.png").read_bytes()
    (images / "000.png").write_bytes((images / "001.png").read_bytes())
    try:
        (line,) = verify("latents/latents@v1", site_at(root), reencode=ALL_ROWS)
    finally:
        (images / "000.png").write_bytes(before)
    row = LatentStore.open(storage_path(root / STORE)).rows["patch"].to_pylist().index(0)
    assert f"row {row} is not what encoder" in line
    assert "for its patch 0 " in line


def test_slides_or_autoencoder_out_of_reach_are_said_but_no_problem(
    whole: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = whole.parent / "images"
    images.rename(images.with_name("away"))
    try:
        assert verify("latents/latents@v1", site_at(root)) == []
    finally:
        images.with_name("away").rename(images)
    assert "not encoded again: 8 of 8 rows cannot be read" in caplog.text
    shutil.rmtree(root / "autoencoders")
    assert verify("latents/latents@v1", site_at(root)) == []
    assert "autoencoders/kl@v1 does not exist" in caplog.text


def test_whole_store_has_no_problem_and_every_row_is_encoded_again_to_the_bit(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert verify("latents/latents@v1", site_at(whole), reencode=ALL_ROWS) == []
    assert "not encoded again" not in caplog.text


def read_with(whole: Path, root: Path) -> None:
    """Reads the store, alone and in a mixture with the undamaged one."""
    store = LatentStore.open(storage_path(root / STORE))
    store.read(0, store.num_rows)
    other = LatentStore.open(storage_path(whole / STORE))
    LatentMixture([other, store], weights=[1, 1], split="train", seed=0, batch=8, num_lanes=2)


def change_shard(root: Path, shard: int, change: Callable[[bytes], bytes]) -> None:
    place = root / STORE / shard_name(shard)
    place.write_bytes(change(place.read_bytes()))


def with_index(data: bytes, chunk: int, entry: bytes) -> bytes:
    """A shard of two inner chunks with another entry in its index."""
    index = bytearray(data[-36:-4])
    index[16 * chunk : 16 * (chunk + 1)] = entry
    return data[:-36] + bytes(index) + struct.pack("<I", google_crc32c.value(bytes(index)))


def edit_json(place: Path, change: Callable[[dict[str, object]], None]) -> None:
    value = json.loads(place.read_text())
    change(value)
    place.write_text(json.dumps(value))


def edit_attributes(root: Path, **changes: object) -> None:
    edit_json(
        root / STORE / "zarr.json",
        lambda value: value["attributes"].update(changes),  # type: ignore[attr-defined]
    )


def patch_table(root: Path) -> object:
    return PatchIndex.open(storage_path(root / "patches/patches/v1")).patches
