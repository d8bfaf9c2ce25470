"""Finding records: all at once as one by one, and again after damage."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import perf_data as w

from piscope.sources.perf_walk import find_record, walk


def followed(data: np.ndarray, size: int, order: Any) -> tuple[list[int], int]:
    """The chain as the format says, one record after the other."""
    offsets, at = [], 0
    while at + 8 <= size:
        kind = int.from_bytes(data[at : at + 4].tobytes(), order)
        length = int.from_bytes(data[at + 6 : at + 8].tobytes(), order)
        if length < 8 or not 0 < kind <= 1023 or at + length > size:
            break
        offsets.append(at)
        at += length
        if kind in (w.TRACING_DATA, w.AUXTRACE):
            break
    return offsets, at


def stretch(writer: w.Writer, seed: int, count: int, most_words: int) -> bytearray:
    """Records whose bodies are full of what looks like sample headers."""
    rng = random.Random(seed)
    data = bytearray()
    for _ in range(count):
        body = bytearray(8 * rng.randrange(1, most_words))
        while rng.random() < 0.5:
            fake = writer.pack("IHH", w.SAMPLE, 1, 8 * rng.randrange(1, 40))
            at = 8 * rng.randrange(len(body) // 8)
            body[at : at + 8] = fake
        kind = w.SAMPLE if rng.random() < 0.9 else rng.choice((1, 3, 10, 68))
        data += writer.record(kind, bytes(body))
    return data


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("most_words", [3, 40, 900])
@pytest.mark.parametrize("seed", range(3))
def test_the_fast_walk_is_the_slow_one(order: Any, most_words: int, seed: int) -> None:
    writer = w.Writer([], order)
    data = stretch(writer, seed, 400_000 // most_words // 8 + 600, most_words)
    array = np.frombuffer(bytes(data), np.uint8)
    for size in (len(data), len(data) - 5, len(data) * 2 // 3):
        found = walk(array, 0, size, writer.mark)
        offsets, end = followed(array, size, order)
        assert (found.offsets.tolist(), found.end) == (offsets, end)
        assert found.stop == ("end" if end == size else "partial")


@pytest.mark.parametrize(
    ("special", "stop"),
    [
        ({"size": 0}, "damaged"),
        ({"size": 7}, "damaged"),
        ({"kind": 0}, "damaged"),
        ({"kind": 1 << 20}, "damaged"),
        ({"kind": w.AUXTRACE}, "data"),
        ({"size": 24 - 3}, "damaged"),  # the next header is then not one
    ],
)
def test_what_stops_a_walk(special: dict[str, int], stop: str) -> None:
    writer = w.Writer([])
    one = writer.record(w.SAMPLE, b"\xff" * 16)
    kind, size = special.get("kind", w.SAMPLE), special.get("size", len(one))
    odd = writer.pack("IHH", kind, 0, size) + one[8:]
    for before in (0, 20_000):
        array = np.frombuffer(one * before + odd + one * 20_000, np.uint8)
        found = walk(array, 0, len(array), "<")
        assert (found.offsets.tolist(), found.end) == followed(
            array, len(array), "little"
        )
        assert found.stop == stop


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=3000), st.booleans())
def test_a_chain_is_found_again_behind_junk(
    seed: int, junk: bytes, little: bool
) -> None:
    writer = w.Writer([], "little" if little else "big")
    chain = bytes(stretch(writer, seed, 12, 20))
    data = np.frombuffer(junk + chain, np.uint8)
    found = find_record(data, 0, len(data), writer.mark)
    # Junk can look like records; what is found must at least hold together.
    assert found is not None
    assert found <= len(junk)
    if found < len(junk):
        assert len(walk(data, found, len(data), writer.mark).offsets) >= 2


def test_nothing_is_found_in_zeros_or_text() -> None:
    text = b"[ perf record: Woken up 1 times to write data ]\n" * 3000
    for junk in (bytes(200_000), text):
        data = np.frombuffer(junk, np.uint8)
        assert find_record(data, 0, len(data), "<") is None
