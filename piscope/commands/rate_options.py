"""The words of `--rate` and `--rate-curve`: rates, by name or over a range."""

from __future__ import annotations

import re

from piscope.errors import UsageError

__all__ = ("parse_curve", "parse_rates")

_SHAPE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?(?:e[0-9])?)([kKM]?)")
_FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_MOST_HZ = 1e8
_MOST_POINTS = 1000
_POINTS_A_DECADE = 10


def parse_rates(text: str) -> dict[str, float]:
    """Posts a second by name: `1000` is every vCPU ("") and `vm0/vcpu1=2k,vm1=10` some.

    Raises UsageError for anything else.
    """
    if "=" not in text:
        return {"": _rate(text, "--rate")}
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        name = name.strip()
        if not name:
            raise UsageError(f"--rate {part[:40]!r}: expected NAME=HZ")
        if name in rates:
            raise UsageError(f"--rate {name[:40]!r}: given twice")
        rates[name] = _rate(value, f"--rate {name[:40]}")
    return rates


def parse_curve(text: str) -> tuple[float, ...]:
    """Rates from LOW:HIGH, or LOW:HIGH:POINTS, evenly apart in their logarithm.

    Raises UsageError for anything else.
    """
    low_text, *rest = text.split(":")
    if len(rest) not in (1, 2):
        raise UsageError(
            f"--rate-curve {text[:40]!r}: expected LOW:HIGH, as in 10:100k"
        )
    low = _rate(low_text, "--rate-curve LOW")
    high = _rate(rest[0], "--rate-curve HIGH")
    if not 0 < low < high:
        raise UsageError(f"--rate-curve {text[:40]!r}: LOW is not between 0 and HIGH")
    import math

    decades = math.log10(high / low)
    points = round(decades * _POINTS_A_DECADE) + 1
    if len(rest) == 2:
        points = int(rest[1]) if rest[1].isdecimal() and len(rest[1]) < 5 else 0
    elif points < 2:
        points = 2
    if not 2 <= points <= _MOST_POINTS:
        raise UsageError(
            f"--rate-curve {text[:40]!r}: expected 2 to {_MOST_POINTS} points"
        )
    step = decades / (points - 1)
    return tuple(float(f"{low * 10 ** (step * i):.6g}") for i in range(points))


def _rate(text: str, option: str) -> float:
    match = _SHAPE.fullmatch(text.strip())
    value = float(match[1]) * _FACTORS[match[2]] if match else -1.0
    if not 0 <= value <= _MOST_HZ:
        raise UsageError(
            f"{option} {text[:40]!r}: expected posts a second, as in 1500, 20k or 1M"
        )
    return value
