"""A transition table as text: on a screen, as the difference of two, as a graph.

A change of what the model does is a changed line here, for a person to judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from piscope.model.letters import Folded, Letter, Outcome
from piscope.model.policy import SWITCHES
from piscope.model.table import Cell, Table

__all__ = ("diff_text", "dot_text", "table_text")

_POSTS = (Letter.POST_HW, Letter.POST_SW_NEW, Letter.POST_SW_AGAIN)
_PUTS = (
    Letter.PUT_RUN_PREEMPTED,
    Letter.PUT_RUN_NOT,
    Letter.PUT_BLOCK_IF1_PREEMPTED,
    Letter.PUT_BLOCK_IF1_NOT,
    Letter.PUT_BLOCK_IF0_PREEMPTED,
    Letter.PUT_BLOCK_IF0_NOT,
)
_BLOCKS = (Letter.PRE_BLOCK_IF1, Letter.PRE_BLOCK_IF0, Letter.POST_BLOCK)
_SHOWN = (
    Letter.LOAD_SAME,
    Letter.LOAD_OTHER,
    *_PUTS,
    *_POSTS,
    Letter.SYNC,
    Letter.ENTER,
    Letter.EXIT,
    *_BLOCKS,
)

_HEADING = {
    Letter.PUT_RUN_PREEMPTED: "RUN pre",
    Letter.PUT_RUN_NOT: "RUN",
    Letter.PUT_BLOCK_IF1_PREEMPTED: "IF1 pre",
    Letter.PUT_BLOCK_IF1_NOT: "IF1",
    Letter.PUT_BLOCK_IF0_PREEMPTED: "IF0 pre",
    Letter.PUT_BLOCK_IF0_NOT: "IF0",
    Letter.POST_HW: "HW",
    Letter.POST_SW_NEW: "SW new",
    Letter.POST_SW_AGAIN: "SW again",
    Letter.LOAD_SAME: "same",
    Letter.LOAD_OTHER: "other",
    Letter.PRE_BLOCK_IF1: "pre IF1",
    Letter.PRE_BLOCK_IF0: "pre IF0",
    Letter.POST_BLOCK: "post",
}

_LEGEND = """\
cell    next state, what was done, and where it cost anything PIR scans/locked
        operations/wakeup-list locks of load, put and block; "=" the same state,
        "." impossible
done    F2, F1: notification sent; ipi: F1 sent to itself; wake: task woken by KVM;
        on, sn: silent because of it; taken: processed by the CPU in guest mode
pre     preempted; IF1, IF0: blocking, the guest's interrupts not blocked or blocked
*       only where a probe has read ON and PIR
INIT, FORGET, OBSERVE_* and NOP do what their names say, from any state."""


def table_text(table: Table) -> str:
    """The table in blocks, by where the vCPU is; one line per state."""
    policy = table.policy
    parts = [f"{policy.name}: {policy.title}\nreleases: {policy.releases}"]
    parts.extend(_block(table, *block) for block in _blocks(table))
    parts.append(_LEGEND)
    return "\n\n".join(parts) + "\n"


def _blocks(table: Table) -> Iterator[tuple[str, list[int], Sequence[Letter]]]:
    places: dict[str, list[int]] = {"put": [], "loaded": [], "guest": []}
    for number, state in enumerate(table.states):
        place = "guest" if state.in_guest else "loaded" if state.loaded else "put"
        places[place].append(number)
    loads = (Letter.LOAD_SAME, Letter.LOAD_OTHER)
    yield "not loaded: load, post", places["put"], (*loads, *_POSTS)
    yield "loaded: put", places["loaded"], _PUTS
    others = [*_POSTS, Letter.SYNC, Letter.ENTER]
    if not table.policy.block_in_put:
        others.extend(_BLOCKS)
    yield "loaded: post, sync, enter", places["loaded"], others
    yield "in guest: post, exit", places["guest"], (*_POSTS, Letter.EXIT)


def _block(
    table: Table, title: str, numbers: list[int], letters: Sequence[Letter]
) -> str:
    rows = [[title, *(_HEADING.get(x, x.name) for x in letters)]]
    for number in numbers:
        observed = " " if number in table.legal else "*"
        label = f"{number:3}{observed} {_bits(table.states[number])}"
        rows.append([label, *(_cell(table, number, letter) for letter in letters)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _bits(state: Folded) -> str:
    return str(state).partition(" ")[2]


def _cell(table: Table, number: int, letter: Letter) -> str:
    cells = table.cells[number][letter]
    if not cells:
        return "."
    (cell,) = cells
    follower = "=" if cell.next_state == number else str(cell.next_state)
    return " ".join([follower, *_done(cell.outcome)])


def _done(outcome: Outcome) -> list[str]:
    words = [
        word
        for word, count in (
            ("F2", outcome.notify_f2),
            ("F1", outcome.notify_f1),
            ("ipi", outcome.self_ipi),
            ("wake", outcome.wake),
            ("on", outcome.silenced_on),
            ("sn", outcome.silenced_sn),
            ("taken", outcome.absorbed),
        )
        if count
    ]
    costs = (outcome.pir_scans, outcome.locked_ops, outcome.list_locks)
    if any(costs):
        words.append("/".join(map(str, costs)))
    return words


def diff_text(first: Table, second: Table) -> str:
    """What the second table does differently, state by state and letter by letter.

    States that only one of the tables has are listed, and not compared.
    """
    lines = [f"from {first.policy.name} to {second.policy.name}"]
    for switch, (meaning, _) in SWITCHES.items():
        values = [getattr(t.policy, switch) for t in (first, second)]
        if values[0] != values[1]:
            lines.append(f"  {switch}: {meaning}: {' -> '.join(map(_yes_no, values))}")
    lines.append("")
    rows = list(_differences(first, second))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for state, letter, before, after in rows:
        lines.append(
            f"{state.ljust(widths[0])}  {letter.ljust(widths[1])}  "
            f"{before.ljust(widths[2])}  ->  {after}"
        )
    if not rows:
        lines.append("no difference in states that both have")
    for table, other in ((first, second), (second, first)):
        only = [str(s) for s in table.states if s not in other.states]
        if only:
            lines += ["", f"states only under {table.policy.name}:"]
            lines += [f"  {state}" for state in only]
    lines += ["", "costs: PIR scans/locked operations/wakeup-list locks"]
    return "\n".join(lines) + "\n"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _differences(first: Table, second: Table) -> Iterator[tuple[str, str, str, str]]:
    for number, state in enumerate(first.states):
        if state not in second.states:
            continue
        other = second.states.index(state)
        for letter in _SHOWN:
            before = _in_full(first, first.cells[number][letter])
            after = _in_full(second, second.cells[other][letter])
            if before != after:
                yield str(state), letter.name, before, after


def _in_full(table: Table, cells: tuple[Cell, ...]) -> str:
    if not cells:
        return "impossible"
    (cell,) = cells
    return " ".join([str(table.states[cell.next_state]), *_done(cell.outcome)])


def dot_text(table: Table) -> str:
    """The legal states as a Graphviz graph; letters that lead alike share an edge."""
    lines = [
        f'digraph "{table.policy.name}" {{',
        "  rankdir=LR;",
        '  node [shape=box, fontname="monospace"];',
    ]
    edges: dict[tuple[int, int], list[str]] = defaultdict(list)
    for number in table.legal:
        state = table.states[number]
        fresh = ", style=bold" if number == table.fresh else ""
        label = str(state).replace(" ", "\\n", 1)
        lines.append(f'  s{number} [label="{label}"{fresh}];')
        for letter in _SHOWN:
            for cell in table.cells[number][letter]:
                words = " ".join([letter.name, *_done(cell.outcome)])
                edges[number, cell.next_state].append(words)
    for (source, target), labels in edges.items():
        text = "\\n".join(labels)
        lines.append(f'  s{source} -> s{target} [label="{text}"];')
    return "\n".join([*lines, "}"]) + "\n"
