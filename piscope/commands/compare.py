"""`piscope compare`: two captures, before and after a change."""

from __future__ import annotations

import click

from piscope.commands.options import (
    Form,
    form_option,
    ignore_option,
    json_option,
    policies_option,
    posted_option,
    quiet_option,
    tsc_khz_option,
    width_option,
)

__all__ = ("compare",)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@policies_option(
    "Replay both captures under this policy. Repeatable.  [default: each under"
    " that of its own kernel]"
)
@posted_option
@ignore_option
@tsc_khz_option
@form_option
@json_option
@width_option
@quiet_option
def compare(
    a: str,
    b: str,
    policies: tuple[str, ...],
    posted: str,
    ignore: tuple[str, ...],
    tsc_khz: int | None,
    form: Form,
    as_json: bool,
    width: int | None,
    quiet: bool,
) -> int:
    """Compare two captures, before and after a kernel change.

    Notifications, windows, costs and VM-exits, by time, VM-exits and VM-entries, each
    with the difference, the ratio, and what of it may be chance or what the traces
    leave open; and what makes the comparison unfair.

    Exit status: 0 compared; 2 a capture can't be read; 3 it can't be told whether
    notifications to vCPUs that are not loaded changed.
    """
    from piscope.commands.compare_run import Request, compare_two

    request = Request(policies=policies, posted=posted, ignore=ignore, tsc_khz=tsc_khz)
    return compare_two(
        (a, b), request, form="json" if as_json else form, width=width, quiet=quiet
    )
