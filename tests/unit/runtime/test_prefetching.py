"""Items are taken ahead, no further than asked; errors come in their place; the thread ends."""

import threading

import pytest

from histodiff.runtime import Prefetched, encode_in_process


def test_prefetched_gives_every_item_in_order_and_its_thread_ends():
    before = threading.active_count()
    with Prefetched(range(50), ahead=3) as items:
        assert list(items) == list(range(50))
    assert threading.active_count() == before


def test_prefetched_takes_so_many_items_ahead_and_no_more():
    taken = []
    reached = threading.Event()

    def source():
        for number in range(10):
            taken.append(number)
            if number == 2:
                reached.set()
            yield number

    with Prefetched(source(), ahead=2) as items:
        assert next(items) == 0
        assert reached.wait(30)
        assert len(taken) == 3  # one was given, two wait
    assert len(taken) <= 4


def test_prefetched_error_comes_after_the_items_before_it():
    def source():
        yield 1
        raise ValueError("broken")

    with Prefetched(source(), ahead=4) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


def test_prefetched_left_early_takes_nothing_more():
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield number

    with Prefetched(source(), ahead=2) as items:
        next(items)
    assert len(taken) <= 4


class _Reader:
    def __init__(self, second_read):
        self._second_read = second_read

    def read(self, part):
        if part == 2:
            self._second_read.set()
        return part


class _Encoder:
    """Waits at the first block until the next part is read, as only another thread can do."""

    def __init__(self, second_read):
        self._second_read = second_read

    def run(self, unit, blocks):
        first = next(blocks)
        assert self._second_read.wait(30)
        return [first, *blocks]


def test_encode_in_process_reads_while_the_encoder_works():
    second = threading.Event()
    done = encode_in_process(
        lambda: _Reader(second), lambda: _Encoder(second), [0], parts_of=lambda unit: [1, 2, 3]
    )
    assert [finished.record for finished in done] == [[1, 2, 3]]
