"""What `piscope verify` finds, as a number that `piscope gate` can hold to a limit."""

from __future__ import annotations

import math

from piscope.gate.metrics import Range

__all__ = ("disagreements",)


def disagreements(path: str) -> dict[str, Range]:
    """By policy: how many transitions disagree with it, on the platform that fits best.

    Empty where the trace has no probes that tell. What lies beside the trace (the
    kernel's own counters) is not looked at: the number hangs on the trace alone.

    Raises PiscopeError as `piscope verify` does.
    """
    from piscope.commands.verify_run import Request, verified

    least: dict[str, float] = {}
    for line in verified(path, Request()).candidates:
        least[line.policy] = min(
            least.get(line.policy, math.inf), float(line.disagreements)
        )
    return {policy: Range(int(n), int(n)) for policy, n in least.items()}
