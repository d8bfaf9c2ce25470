"""Markdown as a reader of GitHub's flavor sees it: tables, texts, no other markup."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

PLAIN = {"text", "softbreak", "text_special"}
BLOCKS = {"heading", "paragraph", "bullet_list", "list_item", "table", "thead"}
BLOCKS |= {"tbody", "tr", "th", "td", "inline", "fence"}


def tokens_of(text: str) -> list[Token]:
    """The document's tokens; strikethrough and tables as GitHub has them."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return reader.parse(text)


def inline_text(token: Token) -> str:
    """What is read of an inline token, bold or not."""
    words = []
    for child in token.children or []:
        if child.type in PLAIN:
            words.append(" " if child.type == "softbreak" else child.content)
        else:
            assert child.type in ("strong_open", "strong_close"), child.type
    return "".join(words)


def kinds(text: str) -> set[str]:
    """The kinds of blocks that the document holds."""
    return {
        token.type.removesuffix("_open").removesuffix("_close")
        for token in tokens_of(text)
    }


def tables_of(text: str) -> Iterator[list[list[str]]]:
    """Each table's rows, its headings first."""
    rows: list[list[str]] = []
    inside = False
    for token in tokens_of(text):
        if token.type == "table_open":
            rows, inside = [], True
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and inside:
            rows[-1].append(inline_text(token))
        elif token.type == "table_close":
            inside = False
            yield rows


def unfolded(rows: list[list[str]], titles: Collection[str] = ()) -> list[list[str]]:
    """Rows as they were before a long cell went on in the row below.

    A row whose numbers are all empty is the beginning of the next, if it is no title.
    """
    result: list[list[str]] = []
    open_ = False
    for row in rows:
        if open_:
            result[-1] = [
                " ".join(f"{a} {b}".split())
                for a, b in zip(result[-1], row, strict=True)
            ]
        else:
            result.append(list(row))
        open_ = not any(result[-1][1:]) and result[-1][0] not in titles
    return result


def texts_of(text: str) -> list[str]:
    """Every inline text, outside of tables as well, in order."""
    return [inline_text(token) for token in tokens_of(text) if token.type == "inline"]
