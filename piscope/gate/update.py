"""Write a baseline: the limits as they were, the numbers of now.

The text above the numbers is kept byte for byte, with its comments; below it there is
one table a trace and one line a number, both sorted, so that a diff of the file is a
list of what changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from piscope import __version__
from piscope.errors import UsageError
from piscope.gate.baseline import Baseline, parse_baseline
from piscope.gate.limits import dotted, quoted
from piscope.gate.measured import Measured
from piscope.gate.metrics import Range, Value

__all__ = ("DEFAULT_TEXT", "MARK", "updated")

MARK = "# ---- measured: everything below is made anew by `piscope gate --update` ----"

DEFAULT_TEXT = """\
# Limits of `piscope gate`; docs/gate.md says what can be written here.
format = 1

[options]
policies = ["preempt-only", "suppress-on-put"]
posted = "msi"

# For each trace, against its own numbers below. "captured" is the policy of the
# kernel that was traced. Counts of at most noise_below are no regression.
[limits.each]
unloaded_notifications.captured.per_entry = { increase_percent = 10, noise_below = 10 }
residual_notifications.captured.per_entry = { increase_percent = 10, noise_below = 10 }
wrong_vcpu.captured.per_entry = { increase_percent = 10, noise_below = 5 }
exposure_windows.captured.per_entry = { increase_percent = 10, noise_below = 10 }
exposure_ns.captured.per_second = { increase_percent = 10, noise_below = 1000000 }
contradictions.captured.increase_percent = 0
verify_disagreements.captured.increase_percent = 0
losses.increase_percent = 0

"""
"""What a first `--update` writes above the numbers."""


def updated(baseline: Baseline, measured: Mapping[str, Measured]) -> str:
    """The text of the baseline with these traces' numbers, and no others.

    Raises UsageError for a baseline whose numbers are not where they can be replaced.
    """
    above, mark, _ = baseline.text.partition(MARK)
    if not mark and (baseline.measured or baseline.piscope):
        raise UsageError(
            f"has numbers but no line {MARK!r} above them", path=baseline.path
        )
    above = above.rstrip("\n") + "\n\n"
    values = sorted({(limit.value_name, limit.value) for limit in baseline.limits()})
    parts = [
        f"{above}{MARK}\n\n[measured]\npiscope = {quoted(__version__)}\n",
        *(_table(name, measured[name], values) for name in sorted(measured)),
    ]
    text = "\n".join(parts)
    parse_baseline(text, baseline.path)  # what is written can be read
    return text


def _table(name: str, measured: Measured, values: list[tuple[str, Value]]) -> str:
    lines = [
        f"[measured.traces.{dotted([name])}]",
        f"sha256 = {quoted(measured.sha256)}",
    ]
    if measured.kernel_release is not None:
        lines.append(f"kernel_release = {quoted(measured.kernel_release)}")
    if measured.captured_policy is not None:
        lines.append(f"captured_policy = {quoted(measured.captured_policy)}")
    lines += [
        f"duration_ns = {measured.duration_ns}",
        f"entries = {measured.entries}",
    ]
    for value_name, value in values:
        number = measured.number(value)
        if number is not None:
            lines.append(f"values.{dotted([value_name])} = {_number(number)}")
    return "\n".join(lines) + "\n"


def _number(number: Range) -> str:
    ends = ["inf" if math.isinf(end) else str(int(end)) for end in number]
    return ends[0] if number.min == number.max else f"[{', '.join(ends)}]"
