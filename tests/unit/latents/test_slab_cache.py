"""The local cache of slabs: right bytes, its limit at every moment, damage found."""

import fcntl
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from histodiff.latents import LatentMixture, LatentStore
from histodiff.latents.cache import SlabCache
from histodiff.latents.mixture import ReaderSettings
from histodiff.storage import storage_path
from histodiff.telemetry import metrics
from tests.support.latent_stores import patch_table, write_store

SIZE = 1000
FILE = SIZE + 4


def content_of(name: str) -> bytes:
    return np.random.Generator(np.random.Philox(int(name))).bytes(SIZE)


def got(cache, name, *, skip=0, length=SIZE):
    buffer = bytearray(length)
    found = cache.get(name, memoryview(buffer), skip=skip, total=SIZE)
    return bytes(buffer) if found else None


def used_bytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_cache_gives_back_whole_slabs_and_parts(tmp_path):
    cache = SlabCache(tmp_path / "new", 10 * FILE)
    assert got(cache, "1") is None
    cache.put("1", memoryview(content_of("1")))
    assert got(cache, "1") == content_of("1")
    assert got(cache, "1", skip=300, length=200) == content_of("1")[300:500]


def test_cache_least_recently_used_goes_first(tmp_path):
    cache = SlabCache(tmp_path, 3 * FILE + 20)
    for name in ("1", "2", "3"):
        cache.put(name, memoryview(content_of(name)))
    assert got(cache, "1") is not None
    cache.put("4", memoryview(content_of("4")))
    assert [name for name in "1234" if got(cache, name) is not None] == ["1", "3", "4"]


def test_cache_slab_above_the_limit_is_not_kept(tmp_path):
    cache = SlabCache(tmp_path, FILE)
    cache.put("1", memoryview(content_of("1")))
    assert got(cache, "1") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "longer"])
def test_cache_damaged_file_is_not_given_and_can_be_replaced(tmp_path, damage):
    cache = SlabCache(tmp_path, 10 * FILE)
    cache.put("1", memoryview(content_of("1")))
    (file,) = tmp_path.glob("*.slab")
    data = bytearray(file.read_bytes())
    data[500] ^= 1 if damage == "flip" else 0
    file.write_bytes({"flip": data, "cut": data[:-1], "longer": data + b"x"}[damage])
    assert got(cache, "1") is None
    cache.put("1", memoryview(content_of("1")))
    assert got(cache, "1") == content_of("1")


def test_cache_many_writers_never_exceed_the_limit(tmp_path):
    limit = 5 * FILE + 20
    caches = [SlabCache(tmp_path, limit) for _ in range(4)]  # ranks share nothing but the folder
    seen = []

    def work(rank):
        for number in range(60):
            name = str((7 * number + rank) % 20)
            if (found := got(caches[rank], name)) is not None:
                assert found == content_of(name)
            else:
                caches[rank].put(name, memoryview(content_of(name)))
            with (tmp_path / "used").open() as lock:  # nobody changes files meanwhile
                fcntl.flock(lock, fcntl.LOCK_EX)
                seen.append(used_bytes(tmp_path))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert max(seen) <= limit
    assert not list(tmp_path.glob("*.part"))


def test_cache_part_of_a_dead_writer_is_removed_and_of_a_live_one_kept(tmp_path):
    cache = SlabCache(tmp_path, 3 * FILE + 20)
    dead, alive = tmp_path / "a.part", tmp_path / "b.part"
    dead.write_bytes(bytes(FILE))
    alive.write_bytes(bytes(FILE))
    with alive.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        for name in ("1", "2", "3"):
            cache.put(name, memoryview(content_of(name)))
            assert used_bytes(tmp_path) <= cache.limit_bytes
        assert alive.exists()
    assert not dead.exists()
    assert got(cache, "3") == content_of("3")


def test_reader_with_cache_gives_the_same_and_fetches_less(tmp_path):
    path = storage_path("memory://cached-store")
    write_store(path, patch_table(slides=4, side=8, split="train"))
    store = LatentStore.open(path)
    options = {"weights": [1], "split": "train", "seed": 0, "batch": 32, "num_lanes": 1,
               "settings": ReaderSettings(slab_bytes=256, window_slabs=2)}  # fmt: skip
    plain = LatentMixture([store], **options)
    fetched = []
    for _ in range(2):
        cached = LatentMixture([store], **options, cache=SlabCache(tmp_path, 2**20))
        before = metrics.READER_FETCHED_BYTES._value.get()
        for step in range(16):
            same = np.array_equal(
                cached.batch_at(step).moments_BMHW, plain.batch_at(step).moments_BMHW
            )
            assert same
        cached._threads.shutdown()
        fetched.append(metrics.READER_FETCHED_BYTES._value.get() - before)
    assert len(list(tmp_path.glob("*.slab"))) == 32
    assert fetched[0] > fetched[1]
    plain.close()


def test_reader_takes_nothing_from_the_cache_of_a_store_that_was_written_anew(tmp_path):
    path = storage_path("memory://rewritten-store")
    patches = patch_table(slides=4, side=4, split="train")
    for seed in (0, 1):
        write_store(path, patches, seed=seed)
        store = LatentStore.open(path)
        reader = LatentMixture(
            [store], weights=[1], split="train", seed=0, batch=16, num_lanes=1,
            cache=SlabCache(tmp_path, 2**20),
        )  # fmt: skip
        batch = reader.batch_at(1)
        assert np.array_equal(batch.moments_BMHW, store.read_rows(batch.row_B))
        path.fs.rm(path.path, recursive=True)
