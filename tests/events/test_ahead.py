"""Items made ahead by a thread are the same items, and so are their errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from piscope.events.ahead import ahead


def test_all_items_in_order() -> None:
    assert list(ahead(iter(range(1000)), 3)) == list(range(1000))


def test_it_runs_in_another_thread() -> None:
    def where() -> Iterator[int]:
        yield threading.get_ident()

    assert list(ahead(where())) != [threading.get_ident()]


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    found = []
    with pytest.raises(ValueError, match="two"):
        found.extend(ahead(failing(), 1))
    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)


def test_closed_early_it_ends_the_thread_and_the_iterator() -> None:
    ended = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    threads = threading.active_count()
    items = ahead(endless())
    assert next(items) == 1
    items.close()  # type: ignore[attr-defined]
    assert ended.is_set()
    assert threading.active_count() == threads
