"""`--vm`, `--vcpu` and `--cpu` of the commands that report on an analysis."""

from __future__ import annotations

from piscope.commands.selection import parse_numbers
from piscope.report.selection import Selection

__all__ = ("selected",)


def selected(
    vms: str | None, vcpus: tuple[str, ...], cpus: str | None = None
) -> Selection:
    """What a report is narrowed to; lists as a user wrote them, None: all.

    Raises UsageError for what is no list of numbers.
    """
    return Selection(
        vms=parse_numbers(vms) if vms is not None else None,
        vcpus=vcpus,
        cpus=parse_numbers(cpus) if cpus is not None else None,
    )
