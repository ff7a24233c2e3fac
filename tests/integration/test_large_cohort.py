"""A cohort of many slides: killed midway and resumed, in one process or on Ray, it is one index.

``python -m tests.support.large_cohort`` prints time, memory and size for 250 and 1,000 slides.
"""

import pytest

from tests.support.large_cohort import (
    run_alone,
    run_interrupted,
    seconds_to_open,
    write_cohort,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SLIDES = 64


def test_cohort_killed_and_resumed_on_ray_has_the_content_of_a_run_in_process(tmp_path):
    write_cohort(tmp_path / "slides", slides=SLIDES)
    whole = run_alone(tmp_path / "slides", tmp_path / "whole", workers=1)
    assert (whole.slides, whole.patches) == (SLIDES, SLIDES * 1024)
    kept = run_interrupted(tmp_path / "slides", tmp_path / "killed", workers=1, after=16)
    assert 16 <= kept < SLIDES
    resumed = run_alone(tmp_path / "slides", tmp_path / "killed", workers=2)
    assert resumed.content_sha256 == whole.content_sha256
    assert seconds_to_open(tmp_path / "killed") < 2
