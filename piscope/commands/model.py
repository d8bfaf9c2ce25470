"""`piscope model`: what the model does, without any trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import click

from piscope.errors import UsageError
from piscope.model.policy import POLICIES, SWITCHES, policy_of_release

__all__ = ("model",)

_POLICY = click.Choice(tuple(POLICIES))
_DEFAULT = "suppress-on-put"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.pass_context
def model(context: click.Context) -> None:
    """Show and run the model of the posted-interrupt descriptor.

    All of it is about a VM that needs PI wakeup: one with an assigned device on a
    host with VT-d posting, or one with IPI virtualization.
    """
    if context.invoked_subcommand is None:
        known = ", ".join(model.commands)
        raise click.UsageError(f"Missing command: one of {known}.", context)


@model.command()
@click.option(
    "--release", metavar="UNAME-R", help="Only name the policy of that kernel release."
)
def policies(release: str | None) -> None:
    """List the policies and the switches that make them."""
    if release is not None:
        click.echo(policy_of_release(release))
        return
    rows = [["policy", "releases", "what it does"]]
    rows += [[p.name, p.releases, p.title] for p in POLICIES.values()]
    _print(rows)
    click.echo()
    rows = [["switch", *POLICIES]]
    for switch in SWITCHES:
        values = (getattr(policy, switch) for policy in POLICIES.values())
        rows.append([switch, *("yes" if value else "-" for value in values)])
    _print(rows)


@model.command()
@click.option(
    "--policy", type=_POLICY, default=_DEFAULT, show_default=True, help="Whose table."
)
@click.option(
    "--diff",
    nargs=2,
    type=_POLICY,
    metavar="P Q",
    help="What policy Q does differently from P, and nothing else.",
)
@click.option("--dot", is_flag=True, help="The states as a Graphviz graph.")
def show(policy: str, diff: tuple[str, str] | None, dot: bool) -> None:
    """Print a policy's transition table.

    It is made by calling the reference on every state that can occur.
    """
    from piscope.model.table import enumerate_table
    from piscope.model.table_text import diff_text, dot_text, table_text

    if diff:
        if dot:
            raise UsageError("--diff and --dot: only one of them")
        first, second = (enumerate_table(POLICIES[name]) for name in diff)
        click.echo(diff_text(first, second), nl=False)
        return
    table = enumerate_table(POLICIES[policy])
    click.echo(dot_text(table) if dot else table_text(table), nl=False)


@model.command()
@click.option(
    "--policy", type=_POLICY, default=_DEFAULT, show_default=True, help="Under which."
)
@click.argument("file", metavar="FILE")
def run(policy: str, file: str) -> None:
    """Perform operations and print what each left.

    Descriptors are fresh at first. FILE holds one JSON object a line, in the form of
    the conformance data; `-` is standard input. Keys that are results are ignored, so
    that what was printed can be run again, under another policy too.

    \b
      {"op":"load","vcpu":0,"cpu":1}
      {"op":"put","vcpu":0,"preempted":false,"blocking":true,"irqs_blocked":false}
      {"op":"post","agent":"vtd","vcpu":0,"vector":65}
    """
    from piscope.model.runner import run as run_lines

    name = "<stdin>" if file == "-" else file
    with click.open_file(file, encoding="utf-8", errors="replace") as stream:
        for line in run_lines(POLICIES[policy], _lines(stream), path=name):
            click.echo(line)


def _lines(stream: IO[str]) -> Iterator[str]:
    # Bounded: what is longer is refused by the runner, with its line number.
    from piscope.model.runner import MAX_LINE_CHARS

    while line := stream.readline(MAX_LINE_CHARS + 1):
        yield line


@model.command()
@click.argument("names", metavar="[RULE]...", nargs=-1)
def explain(names: tuple[str, ...]) -> None:
    """Say where each rule of the model comes from.

    RULE is the name of a rule or of a policy's switch.
    """
    from piscope.model.explain import RULES

    known = {rule.name for rule in RULES} | set(SWITCHES)
    for name in names:
        if name not in known:
            raise UsageError(
                f"no rule {name!r}: `piscope model explain` lists them all"
            )
    for rule in RULES:
        if not names or rule.name in names:
            click.echo(f"{rule.name}\n    {rule.rule}")
            click.echo(f"    source: {rule.source}")
            click.echo(f"    in piscope: piscope.model.{rule.function}")
            if rule.caveat:
                click.echo(f"    caveat: {rule.caveat}")
    for switch, (meaning, source) in SWITCHES.items():
        if not names or switch in names:
            having = ", ".join(p.name for p in POLICIES.values() if getattr(p, switch))
            click.echo(f"{switch}\n    {meaning}\n    source: {source}")
            click.echo(f"    in: {having}")


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
