"""README.md and docs/ say what is true: commands exist, outputs are today's."""

from __future__ import annotations

import click
import pytest
from readme_blocks import (
    PAGES,
    README,
    blocks,
    command_named,
    console_commands,
    made,
)

from piscope.cli import COMMANDS

TEXTS = {page.name: page.read_text() for page in PAGES}
BLOCKS = [(page, *block) for page, text in TEXTS.items() for block in blocks(text)]
CONSOLE = [words for text in TEXTS.values() for words in console_commands(text)]


@pytest.mark.parametrize("words", CONSOLE, ids=" ".join)
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
    ("page", "kind", "what", "body"),
    BLOCKS,
    ids=[f"{page} {kind}: {what}" for page, kind, what, _ in BLOCKS],
)
def test_generated_blocks_are_current(
    page: str, kind: str, what: str, body: str
) -> None:
    assert body == made(kind, what), f"{page}: run `make readme`"


def test_every_command_has_its_options_in_the_readme() -> None:
    text = TEXTS[README.name]
    shown = {what for kind, what, _ in blocks(text) if kind == "options"}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("page", TEXTS)
def test_blocks_are_closed(page: str) -> None:
    kinds = ("options", "output", "markdown", "figures")
    found = len(list(blocks(TEXTS[page])))
    assert sum(TEXTS[page].count(f"<!-- {kind}:") for kind in kinds) == found
    assert TEXTS[page].count("<!-- end -->") == found
