"""Reading ahead: a thread takes items from an iterator while the caller works on earlier ones.

At most ``ahead`` items wait, so memory is bounded; what the iterator raises is raised where its
item would have come; leaving the block ends the thread, after the item that it is at.
"""

import threading
from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
    """The items of ``items``, taken by a thread; a context manager that ends it.

    Args:
        items: Iterated in the thread.
        ahead: Items that may wait.
    """

    def __init__(self, items: Iterable[T], *, ahead: int) -> None:
        self._items = items
        self._queue: Queue[_Item[T] | _Raised | None] = Queue()
        self._room = threading.Semaphore(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._take, name="prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._given()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._room.release()
        self._thread.join()

    def _take(self) -> None:
        try:
            iterator = iter(self._items)
            while self._may_take():
                self._queue.put(_Item(next(iterator)))
        except StopIteration:
            self._queue.put(None)
        except BaseException as error:  # raised again where the items are used
            self._queue.put(_Raised(error))

    def _may_take(self) -> bool:
        self._room.acquire()
        return not self._stopped.is_set()

    def _given(self) -> Iterator[T]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, _Raised):
                raise found.error
            self._room.release()
            yield found.value


class _Item(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
