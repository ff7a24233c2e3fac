"""How many bytes and requests ``encode`` needs for remote slides, on the plans that it ships.

The numbers are printed (``-s``): they are what changes of the plan are judged by.
"""

from pathlib import Path

import pytest

from histodiff.storage import storage_path
from tests.support.range_server import range_server
from tests.support.read_plans import fetched_by, indexed, shipped_encode, write_large_slide

SIDE_PX = 20_480
SLIDES = 3
"""Entries of the index; all are the same file, so that it costs one."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_large_slide(folder / "aligned.svs", side_px=SIDE_PX, mpp=0.25, seed=0)
    write_large_slide(folder / "unaligned.svs", side_px=SIDE_PX, mpp=0.2325, seed=1)
    return folder


@pytest.mark.parametrize(("name", "requests"), [("large", 0.2), ("real", 0.3), ("labelled", 0.3)])
@pytest.mark.parametrize(("slide", "mpp"), [("aligned", 0.25), ("unaligned", 0.2325)])
def test_encode_fetches_little_more_than_it_needs_in_few_requests(
    slides, tmp_path, capsys, slide, mpp, name, requests
):
    with range_server(slides) as server:
        index = indexed(storage_path(tmp_path), [f"{server.url}/{slide}.svs"] * SLIDES, mpp=mpp)
        server.forget()
        found = fetched_by(index, shipped_encode(name))
        sent = server.taken()
    with capsys.disabled():
        print(f"\n{slide} {name}: {found}")
    assert (len(sent), sum(each.num_bytes for each in sent)) == (
        found.requests, found.fetched_bytes,
    )  # fmt: skip
    assert 1 <= found.amplification <= 1.3
    assert found.requests_per_patch <= requests
