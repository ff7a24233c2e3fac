import re
from pathlib import Path

import pytest
import torch

from histodiff.errors import ConfigError
from histodiff.workflows.bench import bench
from histodiff.workflows.bench.train.limits import with_peak_bytes
from histodiff.workflows.bench.train.rounds import largest_difference, speed_ratio, take_turns

REPOSITORY = Path(__file__).resolve().parents[3]


def test_blocks_take_turns_and_every_round_begins_with_another() -> None:
    calls: list[tuple[str, int]] = []

    def way(name: str, seconds: float):
        def block(steps: int) -> float:
            calls.append((name, steps))
            return seconds

        return block

    ways = {"a": way("a", 2.0), "b": way("b", 1.0), "c": way("c", 4.0)}
    seconds = take_turns(ways, rounds=4, steps=5, between=lambda: calls.append(("-", 0)))
    assert "".join(name for name, _ in calls) == "abc-bca-cab-abc-"
    assert {steps for name, steps in calls if name != "-"} == {5}
    assert seconds == {"a": [2.0] * 4, "b": [1.0] * 4, "c": [4.0] * 4}


def test_speed_ratio_is_the_median_of_pairs_and_above_one_where_the_first_is_faster() -> None:
    seconds = {"mine": [1.0, 10.0, 1.0], "theirs": [2.0, 21.0, 1.0]}
    assert speed_ratio(seconds, "mine", "theirs") == 2.0
    assert speed_ratio(seconds, "mine", "absent") is None


def test_largest_difference_is_relative_to_the_others() -> None:
    mine = [torch.tensor(1.0), torch.tensor(2.2)]
    theirs = [torch.tensor(1.0), torch.tensor(2.0)]
    assert largest_difference(mine, theirs) == pytest.approx(0.1)
    assert largest_difference(mine, mine) == 0


def test_peak_counts_what_was_there_at_once_and_not_what_was_given_back() -> None:
    def work() -> torch.Tensor:
        first = torch.zeros(2**20)  # 4 MiB
        second = first + 1  # 8 MiB at once
        del first
        return second + 1  # and again

    kept, peak = with_peak_bytes(work, device="cpu")
    assert kept.nbytes == 2**22
    assert 2 * 2**22 <= peak < 2 * 2**22 + 2**12


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("preset=huge", "give one of tiny, small, base, paper"),
        ("device=tpu", "give cpu, or cuda where there is a GPU"),
        ("batch=12", "give a multiple of 8"),
        ("zero_stage=4", "give 0, 1, 2 or 3"),
        ("rounds=0", "give a number above zero"),
        ("peak_tflops=fast", "give a number above zero"),
    ],
)
def test_option_that_cannot_be_used_is_refused_with_what_can(option: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fix)):
        bench("train", ["device=cpu", option])


def test_peer_has_the_versions_of_the_lock() -> None:
    peers = (REPOSITORY / "tests/benchmarks/peers/requirements-train.txt").read_text().split()
    lock = set(re.findall(r"^\S+==[^\s\\]+", (REPOSITORY / "requirements.lock").read_text(), re.M))
    own = {line for line in peers if line.lower() not in lock}
    assert [line.partition("==")[0] for line in own] == ["accelerate"]
