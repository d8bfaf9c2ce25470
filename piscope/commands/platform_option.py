"""The words of `--fastpath` and `--platform`: exit reasons, and what a host offers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

from piscope.errors import UsageError
from piscope.events.vmx_exits import BASIC_REASON_MASK, FORMER_NAMES, VmxExit
from piscope.model.policy import DEFAULT_PLATFORM, Gate, Platform, PreemptedRule

__all__ = ("parse_exit_reasons", "parse_platform")

_RELEASES = {"gate": get_args(Gate), "preempted_rule": get_args(PreemptedRule)}
_SWITCH = {"yes": True, "no": False}


def parse_exit_reasons(text: str) -> frozenset[int]:
    """VM-exit reasons, separated by commas, by the kernel's names or by numbers.

    Raises UsageError for a word that is neither.
    """
    return frozenset(_exit_reason(word.strip()) for word in text.split(","))


def _exit_reason(word: str) -> int:
    name = word.upper()
    if name in VmxExit.__members__:
        return int(VmxExit[name])
    if name in FORMER_NAMES:
        return int(FORMER_NAMES[name])
    try:
        number = int(word, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= BASIC_REASON_MASK:
        raise UsageError(
            f"--fastpath {word[:40]!r}: expected VM-exit reasons as in"
            " EPT_MISCONFIG,IO_INSTRUCTION or 49,30"
        )
    return number


def parse_platform(words: tuple[str, ...]) -> Platform:
    """The default platform with NAME=VALUE changed, as `Platform` documents them.

    Raises UsageError for a name or a value that does not exist.
    """
    changes: dict[str, Any] = {}
    names = [field.name for field in fields(Platform)]
    for word in words:
        name, _, value = word.partition("=")
        if name not in names:
            raise UsageError(
                f"--platform {name[:40]!r}: expected one of {', '.join(names)}"
            )
        known: dict[str, Any] = (
            {release: release for release in _RELEASES[name]}
            if name in _RELEASES
            else _SWITCH
        )
        if value not in known:
            raise UsageError(
                f"--platform {name}={value[:40]}: expected one of {', '.join(known)}"
            )
        changes[name] = known[value]
    return replace(DEFAULT_PLATFORM, **changes)
