"""An iterator that is run ahead by a thread of its own, a few items.

Reading and decoding a chunk takes about as long as merging the ones before it, and
numpy does most of both without the interpreter's lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ("ahead",)

T = TypeVar("T")

# How often a thread that waits looks whether it is still wanted.
_LOOK_S = 0.1
_ENDS_S = 1.0


@dataclass(frozen=True, slots=True)
class _End:
    """There is no further item: `cause` is what the iterator raised, if it did."""

    cause: BaseException | None = None


class _Producer(threading.Thread, Generic[T]):
    def __init__(self, items: Iterator[T], depth: int) -> None:
        super().__init__(daemon=True)
        self._items = items
        self.made: queue.Queue[T | _End] = queue.Queue(depth)
        self.unwanted = threading.Event()

    def run(self) -> None:
        end = _End()
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # whoever waits for items raises it
            end = _End(error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self.unwanted.is_set():
            try:
                self.made.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False


def ahead(items: Iterator[T], depth: int = 1) -> Iterator[T]:
    """The same items, or the same exception, made by a thread `depth` items ahead.

    The thread has ended when the iterator has, also where it was closed early; but for
    one that waits for its input then, which ends with the process.
    """
    producer = _Producer(items, depth)
    producer.start()
    try:
        while not isinstance(item := producer.made.get(), _End):
            yield item
            del item
        if item.cause is not None:
            raise item.cause
    finally:
        producer.unwanted.set()
        producer.join(_ENDS_S)
