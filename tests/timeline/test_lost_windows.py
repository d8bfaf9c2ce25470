"""How many windows lost events may hide, at the most."""

from __future__ import annotations

import pytest
from timeline.scene import Scene

from piscope.sources.raw import Loss
from piscope.timeline.losses import hidden_windows


def _scene() -> Scene:
    """A vCPU in its guest for about 30 us on each of two pCPUs."""
    scene = Scene()
    for vcpu in range(2):
        one = scene.vcpu(vcpu, cpu=vcpu)
        one.run()
        one.enter()
    for _ in range(20):
        scene.tick()
    scene.vcpu(2, cpu=0).run()
    return scene


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((), 0),
        # each takes an event, and the least time that a window takes
        ((Loss("missed-events", 0, 10_000, 15_000, 3),), 3),
        ((Loss("missed-events", 0, 10_000, 15_000, 300),), 11),
        ((Loss("missed-events", 0, 10_000, 15_000, None),), 11),
        # one loss by two accounts: the flag, and the count of what was overwritten
        (
            (
                Loss("missed-events", 0, None, 15_000, None),
                Loss("overwritten", 0, None, 15_000, 2),
            ),
            2,
        ),
        (
            (
                Loss("missed-events", 0, 10_000, 15_000, 2),
                Loss("missed-events", 1, 10_000, 15_000, 2),
            ),
            4,
        ),
        # those have no place: `unplaced_losses`
        ((Loss("truncated", None, None, None, 5),), 0),
        ((Loss("unparsed-line", 0, 10_000, 15_000, 5),), 0),
    ],
)
def test_hidden_windows(losses: tuple[Loss, ...], expected: int) -> None:
    scene = _scene()
    scene.losses.extend(losses)
    events = scene.events()
    assert events.ts_ns[0] < 10_000
    assert events.ts_ns[-1] > 15_000
    assert hidden_windows(events) == expected


def test_a_loss_to_the_end_ends_with_the_trace() -> None:
    scene = _scene()
    scene.losses.append(Loss("truncated", 1, 10_000, None, None))
    events = scene.events()
    assert hidden_windows(events) == (events.ts_ns[-1] - 10_000) // 500 + 1


def test_without_place_and_number_any_pcpu_may_hide_them() -> None:
    scene = _scene()
    scene.losses.append(Loss("truncated"))
    events = scene.events()
    span_ns = events.ts_ns[-1] - events.ts_ns[0]
    assert hidden_windows(events) == 2 * span_ns // 500 + 1
