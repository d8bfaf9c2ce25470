"""`piscope synth`: a capture of a simulated host, with its truth beside it."""

from __future__ import annotations

import click

__all__ = ("synth",)


@click.command()
@click.argument("scenario", required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="The capture: a trace.dat, or a perf.data if the name ends so.",
)
@click.option("--seed", type=click.IntRange(0), help="In place of the scenario's.")
@click.option(
    "--events", type=click.IntRange(1), help="End after so many, whenever that is."
)
@click.option("--list", "listed", is_flag=True, help="Print the shipped scenarios.")
@click.option("--keys", is_flag=True, help="Print what a scenario's keys mean.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def synth(
    scenario: str | None,
    output: str | None,
    seed: int | None,
    events: int | None,
    listed: bool,
    keys: bool,
    quiet: bool,
) -> None:
    """Make a capture of a simulated host, and the truth beside it.

    SCENARIO is a TOML file, or the name of a shipped one. To trace-cmd, perf and
    piscope the capture looks like a kernel's. FILE.posts.parquet says what each post
    truly hit, FILE.windows.parquet when each vCPU was not loaded, FILE.truth.json what
    the kernel's counters were.
    """
    from dataclasses import replace

    from piscope.commands.progress import Progress
    from piscope.errors import UsageError
    from piscope.synth.capture import synthesize
    from piscope.synth.keys import key_documentation
    from piscope.synth.scenario import named_scenarios, read_scenario

    if listed:
        for name, title in named_scenarios().items():
            click.echo(f"{name:<12}  {title}")
        return
    if keys:
        click.echo(key_documentation(), nl=False)
        return
    if scenario is None or output is None:
        raise UsageError("expected SCENARIO and -o FILE, --list or --keys")
    asked = read_scenario(scenario)
    capture = asked.capture
    if seed is not None:
        capture = replace(capture, seed=seed)
    if events is not None:
        capture = replace(capture, events=events, duration_ms=0.0)
    asked = replace(asked, capture=capture)
    with Progress(quiet=quiet) as progress:
        made = synthesize(asked, output, progress.at)
    lost = f", {made.lost:,} more lost" if made.lost else ""
    click.echo(f"{made.path}: {made.events:,} events of {_ms(made.duration_ns)}{lost}")
    click.echo(f"  {made.posts:,} posts under {asked.policy}: {_hits(made.hits)}")
    for name, counts in (("PIN", made.pin), ("PIW", made.piw)):
        told = ", ".join(f"CPU {cpu}: {count:,}" for cpu, count in counts.items())
        click.echo(f"  {name} {sum(counts.values()):,}{f' ({told})' if told else ''}")


def _ms(ns: int) -> str:
    return f"{ns / 1e9:,.3f} s" if ns >= 1e9 else f"{ns / 1e6:,.1f} ms"


def _hits(hits: dict[tuple[str, str], int]) -> str:
    own = {hit: n for (replay, hit), n in hits.items() if replay == "captured"}
    ordered = sorted(own.items(), key=lambda one: -one[1])
    return ", ".join(f"{n:,} {hit}" for hit, n in ordered) or "none"
