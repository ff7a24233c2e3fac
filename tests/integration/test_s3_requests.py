"""What ``plan`` says of requests against those that the server gets."""

import os
from pathlib import Path

import pytest

from histodiff.storage import StoragePath
from tests.support.counted_requests import KINDS, counted, requests_of_encode

pytestmark = pytest.mark.s3
TOLERANCE = 0.02


@pytest.mark.parametrize("slides", [1, 4])
def test_s3_encode_makes_the_planned_requests(
    s3_root: StoragePath, s3_endpoint: str, tmp_path: Path, slides: int
) -> None:
    own = {"key": os.environ["AWS_ACCESS_KEY_ID"], "secret": os.environ["AWS_SECRET_ACCESS_KEY"]}
    with counted(s3_endpoint, **own) as proxy:
        found = requests_of_encode(proxy, s3_root, tmp_path, slides=slides)
    assert {kind: found.share_off(kind) for kind in KINDS} == pytest.approx(
        dict.fromkeys(KINDS, 0.0), abs=TOLERANCE
    ), str(found)
