"""The parts of README.md and docs/ that are generated: `make readme` makes them anew.

    <!-- options: events -->            the options of a command, as a table
    ...
    <!-- end -->

    <!-- output: piscope check FILE --> what the command prints, in a text block;
    ...                                 run in the project's folder, 80 columns
    <!-- end -->

    <!-- markdown: piscope agreement --format md FILE... -->
    ...                                 the same, where it prints Markdown
    <!-- end -->

    <!-- figures: counted -->           a table of readme_figures.py
    ...
    <!-- end -->

Hand-written ```console blocks hold lines that begin with `$ piscope`; those are not
generated, but tests/test_readme.py checks that their commands and options exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from readme_figures import FIGURES

from piscope.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?P<start><!-- (?P<kind>options|output|markdown|figures): "
    r"(?P<what>[^\n]*?) -->\n)"
    r"(?P<body>.*?)"
    r"(?P<end><!-- end -->)",
    re.DOTALL,
)
_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def regenerated(text: str) -> str:
    """The same text with every generated block made anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match['start']}{made(match['kind'], match['what'])}{match['end']}"

    return _BLOCK.sub(block, text)


def made(kind: str, what: str) -> str:
    """The body of a generated block."""
    match kind:
        case "options":
            return options_table(what)
        case "output":
            return f"```text\n$ {what}\n{printed(what).rstrip()}\n```\n"
        case "markdown":
            return f"{printed(what).rstrip()}\n"
        case _:
            return f"{FIGURES[what]().rstrip()}\n"


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, argument and body of each generated block."""
    for match in _BLOCK.finditer(text):
        yield match["kind"], match["what"], match["body"]


def console_commands(text: str) -> Iterator[list[str]]:
    """The words of each `$ piscope ...` line, after `piscope`; of a pipe, up to it."""
    for block in _CONSOLE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                for part in re.split(r"\s[|]\s|\s&&\s|;\s", line[2:]):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["piscope"]:
                        yield words[1:]


def command_named(words: Sequence[str]) -> tuple[click.Command | None, list[str]]:
    """The command that the words begin with (`model table`), and the words left."""
    command: click.Command | None = cli
    left = list(words)
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        command = command.get_command(click.Context(command), left.pop(0))
    return command, left


def options_table(name: str) -> str:
    """A command's options as a Markdown table; a group's commands, each with its."""
    command, left = command_named(name.split())
    assert command is not None, f"no command {name!r}"
    assert not left, f"{name!r} is not a command"
    context = click.Context(command, info_name=f"piscope {name}")
    if isinstance(command, click.Group):
        tables = []
        for sub in command.list_commands(context):
            subcommand = command.get_command(context, sub)
            assert subcommand is not None
            tables.append(
                f"`piscope {name} {sub}`: {subcommand.get_short_help_str(limit=1000)}\n"
            )
            tables.append(options_table(f"{name} {sub}"))
        return "\n" + "\n".join(tables)
    rows = ["| option | |", "| --- | --- |"]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            names, text = record
            cells = [f"`{names}`", text]
            # `[text|csv]` would end a cell
            escaped = [re.sub(r"(?<=\w)[|](?=\w)", r"\|", cell) for cell in cells]
            rows.append(f"| {' | '.join(escaped)} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "No options.\n"


def printed(command: str) -> str:
    """What a command line prints on stdout; a pattern of files is expanded."""
    words = shlex.split(command)
    assert words[0] == "piscope", f"{command!r} is not of piscope"
    files = [
        name
        for word in words[1:]
        for name in (
            sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(word))
            if "*" in word and "/" in word
            else [word]
        )
    ]
    done = subprocess.run(
        [sys.executable, "-m", "piscope", *files],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1, 3), f"{command}: {done.stderr}"
    return done.stdout


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(regenerated(page.read_text()))
