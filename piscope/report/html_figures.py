"""Which charts stand beside which section of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from piscope.report.html_charts import Bars, Chart, Row, bars, pointer, resolve
from piscope.report.html_curve import curve_chart
from piscope.report.render_trace import MOST_VCPUS
from piscope.report.render_words import (
    COST_WORDS,
    KIND_HEADINGS,
    OUTCOME_WORDS,
    REASON_WORDS,
    STATE_WORDS,
    exit_reason_name,
)

__all__ = ("KIND_COLORS", "KIND_WORDS", "charts_of")

KIND_COLORS = {
    "guest": "#009e73",
    "host-irqs-off": "#0072b2",
    "host": "#56b4e9",
    "poll": "#f0e442",
    "userspace": "#e69f00",
    "preempted": "#d55e00",
    "asleep": "#cc79a7",
    "blocked": "#a3abb5",
    "unknown": "rgba(127,127,127,0.18)",
}
"""Of each kind of interval, in the order in which they are stacked."""

KIND_WORDS = {
    kind: words.replace("-\n", "").replace("\n", " ")
    for kind, words in KIND_HEADINGS.items()
}
"""Kinds of interval as the legend names them."""

_MOST_ROWS = 16

Document = Mapping[str, Any]


def charts_of(section: str, document: Document) -> list[Chart]:
    """The charts of one section of `render.sections`, without the empty ones."""
    make = _OF_SECTION.get(section)
    made = make(document) if make is not None else ()
    return [chart for chart in made if chart is not None]


def _by_policy(
    document: Document,
    name: str,
    title: str,
    rows: Iterable[tuple[str, tuple[str, ...]]],
    *,
    rest: tuple[str, ...] = (),
    unit: str = "",
    what: str | None = None,
) -> Chart | None:
    """A group for each row, a bar for each policy; rows that are 0 throughout go."""
    policies = tuple(document["policies"])
    lines = []
    for label, keys in rows:
        at = tuple(pointer("policies", p, *keys, *rest) for p in policies)
        if any(_most(document, one) for one in at):
            lines.append(Row(label, at))
    return bars(document, Bars(name, title, policies, tuple(lines), unit, what=what))


def _most(document: Document, at: str) -> int:
    value = resolve(document, at)
    most: int = value["max"] if isinstance(value, dict) else value
    return most or 0


def _keys(document: Document, name: str) -> list[str]:
    """The keys of a dict that each policy has, largest first."""
    most: dict[str, int] = {}
    for policy in document["policies"].values():
        for key, value in policy[name].items():
            count = value.get("windows", value)["max"]
            most[key] = max(most.get(key, 0), count)
    return sorted((k for k in most if most[k]), key=lambda k: (-most[k], k))


def _outcomes(document: Document) -> Iterator[Chart | None]:
    yield _by_policy(
        document,
        "outcomes",
        "Known posts by what became of them",
        ((words, ("outcomes", key)) for key, words in OUTCOME_WORDS.items()),
    )
    yield _by_policy(
        document,
        "not-excluded",
        "Notifications, with all that can't be excluded",
        (
            ("to vCPUs not loaded", ("unloaded_notifications",)),
            ("of them wrong vCPU", ("wrong_vcpu",)),
            ("to loaded vCPUs in the host", ("residual_notifications",)),
        ),
    )


def _removed(document: Document) -> Iterator[Chart | None]:
    if document["removed"] is None:
        return
    for key, title, what in (
        ("by_vm", "Removed, by VM", "VM"),
        ("by_vcpu", "Removed, by vCPU", "vCPU"),
        ("by_reason", "Removed, by what the vCPU was doing", "while it was"),
        ("by_cpu", "Removed, by pCPU that was notified", "pCPU"),
    ):
        groups = document["removed"][key]
        rows = tuple(
            Row(
                REASON_WORDS.get(group["name"], group["name"]),
                (pointer("removed", key, i, "removed"),),
            )
            for i, group in enumerate(groups[:_MOST_ROWS])
        )
        left = len(groups) - len(rows)
        more = f" (first {len(rows)} of {len(groups):,})" if left else ""
        name = f"removed-{key.replace('_', '-')}"
        yield bars(document, Bars(name, title + more, ("removed",), rows, what=what))


def _residual(document: Document) -> Iterator[Chart | None]:
    yield _by_policy(
        document,
        "residual-by-exit-reason",
        "Known residual notifications, by VM-exit being handled",
        (
            (exit_reason_name(key), ("residual_by_exit_reason", key))
            for key in _keys(document, "residual_by_exit_reason")[:_MOST_ROWS]
        ),
        what="VM-exit",
    )
    yield _by_policy(
        document,
        "residual-by-state",
        "Known residual notifications, by what the loaded vCPU was doing",
        ((words, ("residual_by_state", key)) for key, words in STATE_WORDS.items()),
        what="state",
    )
    handlers = document["handlers"]
    longest = sorted(range(len(handlers)), key=lambda i: -handlers[i]["host_ns"])
    yield bars(
        document,
        Bars(
            "handler-time",
            "Time in the host, where a residual one may hit, by VM-exit",
            ("in the host", "of it straight back"),
            tuple(
                Row(
                    handlers[i]["name"],
                    (
                        pointer("handlers", i, "host_ns"),
                        pointer("handlers", i, "straight_back_ns"),
                    ),
                )
                for i in longest[:_MOST_ROWS]
                if handlers[i]["host_ns"]
            ),
            unit="ns",
            colors=("#56b4e9", "#0072b2"),
        ),
    )


def _exposure(document: Document) -> Iterator[Chart | None]:
    reasons = [
        (REASON_WORDS.get(key, key), ("exposure_by_reason", key))
        for key in _keys(document, "exposure_by_reason")
    ]
    yield _by_policy(
        document, "open-windows", "Open windows", reasons, rest=("windows",)
    )
    yield _by_policy(
        document, "open-time", "Time open", reasons, rest=("duration_ns",), unit="ns"
    )


def _costs(document: Document) -> Iterator[Chart | None]:
    rows = ((words, ("costs", key)) for key, words in COST_WORDS.items())
    yield _by_policy(document, "costs", "Cost of loads and puts", rows)


def _vcpus(document: Document) -> Iterator[Chart | None]:
    vcpus = document["vcpus"]
    busy = sorted(
        (i for i, v in enumerate(vcpus) if v["entries"] or v["puts"]),
        key=lambda i: -(vcpus[i]["entries"] + sum(vcpus[i]["puts"].values())),
    )
    shown = sorted(busy[:MOST_VCPUS])
    kinds = [k for k in KIND_COLORS if any(vcpus[i]["time_ns"].get(k) for i in shown)]
    yield bars(
        document,
        Bars(
            "vcpu-time",
            "Each vCPU's time by what it did",
            tuple(KIND_WORDS[kind] for kind in kinds),
            tuple(
                Row(
                    vcpus[i]["label"],
                    tuple(pointer("vcpus", i, "time_ns", kind) for kind in kinds),
                )
                for i in shown
            ),
            unit="ns",
            stacked=True,
            colors=tuple(KIND_COLORS[kind] for kind in kinds),
        ),
    )


def _rates(document: Document) -> Iterator[Chart | None]:
    yield curve_chart(document)


_OF_SECTION = {
    "outcomes": _outcomes,
    "removed": _removed,
    "handlers": _residual,
    "exposure": _exposure,
    "costs": _costs,
    "rates": _rates,
    "vcpus": _vcpus,
}
