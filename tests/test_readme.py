"""The README says what is true: its commands exist, its outputs are today's."""

from __future__ import annotations

import click
import pytest
from readme_blocks import (
    README,
    blocks,
    command_named,
    console_commands,
    made,
)

from piscope.cli import COMMANDS

TEXT = README.read_text()
BLOCKS = list(blocks(TEXT))


@pytest.mark.parametrize("words", list(console_commands(TEXT)), ids=" ".join)
def test_console_commands_exist(words: list[str]) -> None:
    command, options = command_named(words)
    assert command is not None, f"no command {' '.join(words)!r}"
    context = click.Context(command)
    known = {
        name
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    } | {"-h"}
    for word in options:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, word
        elif word.startswith("-") and word[1:2].isalpha():
            assert word[:2] in known, word


@pytest.mark.parametrize(
    ("kind", "what", "body"), BLOCKS, ids=[f"{k}: {w}" for k, w, _ in BLOCKS]
)
def test_generated_blocks_are_current(kind: str, what: str, body: str) -> None:
    assert body == made(kind, what), "run `make readme`"


def test_every_command_has_its_options_in_the_readme() -> None:
    shown = {what for kind, what, _ in BLOCKS if kind == "options"}
    assert shown == set(COMMANDS)


def test_blocks_are_closed() -> None:
    kinds = ("options", "output", "markdown", "figures")
    assert sum(TEXT.count(f"<!-- {kind}:") for kind in kinds) == len(BLOCKS)
    assert TEXT.count("<!-- end -->") == len(BLOCKS)
