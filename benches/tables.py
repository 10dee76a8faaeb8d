"""Results as text: tables in Markdown, and what follows from them in sentences."""

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from registry import OURS, STANDARD
from summary import Line

Column = tuple[str, Callable[[Line], str]]


def table(measured: Iterable[Line], suite: str) -> str:
    """One row for each line, with the columns that matter for the suite."""
    columns: list[Column] = [
        ("workload", lambda line: line.row["name"]),
        ("beside", lambda line: line.rival),
        ("theirs", lambda line: amount(line.theirs, line.row["unit"]) or line.problem[:40]),
        ("ours", lambda line: amount(line.ours, line.row["unit"])),
        ("ratio", lambda line: times(line.ratio)),
        ("lowest to highest", spread),
    ]
    if suite in ("bench", "rivals", "memory"):
        columns += [("goal", goal), ("", lambda line: line.verdict)]
    if suite != "memory":
        columns.append(("CPU s, theirs / ours", lambda line: pair(line.cpu, "{:.3g}".format)))
    if suite in ("scaling", "rivals"):
        columns.append(("peak, theirs / ours", lambda line: pair(line.peak, size)))
    rows = [[render(line).replace("|", "/") for _, render in columns] for line in measured]
    return markdown([title for title, _ in columns], rows)


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """The first two columns to the left, numbers to the right."""
    rules = ["---" if column < 2 else "---:" for column in range(len(titles))]
    everything = [titles, rules, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(titles))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in everything
    )


# --- cells ----------------------------------------------------------------------------------


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return size(value) if unit == "B" else duration(value)


def duration(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds * 1e9)} ns"


def size(count: float) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if abs(count) >= factor:
            return f"{digits(count / factor)} {unit}"
    return f"{digits(count)} B"


def digits(value: float) -> str:
    """Three that matter, and never an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def spread(line: Line) -> str:
    if len(line.ratios) < 2:
        return ""
    return f"{times(min(line.ratios))} to {times(max(line.ratios))}"


def goal(line: Line) -> str:
    if line.row["most"] is not None:
        return "at most " + amount(line.row["most"], line.row["unit"])
    return "" if line.goal is None else f"{line.goal:g}x"


def pair(values: tuple[float | None, float | None], render: Callable[[float], str]) -> str:
    return " / ".join("-" if value is None else render(value) for value in values)


# --- sentences ------------------------------------------------------------------------------


def conclusions(measured: list[Line]) -> list[str]:
    """What to see first: short of a goal, slower, not measured."""

    def named(lines: Iterable[Line]) -> str:
        return ", ".join(
            line.row["name"]
            + ("" if line.rival == STANDARD else f" beside {line.rival}")
            + (f" ({times(line.ratio)})" if line.ratio else "")
            for line in lines
        )

    goals = [line for line in measured if goal(line) and line.verdict]
    met = [line for line in goals if line.verdict == "met"]
    short = [line for line in goals if line.verdict == "short"]
    slower = [line for line in measured if line.is_slower]
    missing = [line for line in measured if line.ratio is None and line.problem]
    found = []
    if goals:
        found.append(f"Goals met: {len(met)} of {len(goals)}.")
    if short:
        found.append(f"Short of the goal: {named(short)}.")
    if slower:
        found.append(f"Slower, or more memory, than the rival: {named(slower)}.")
    found += [
        f"Not measured: {line.row['name']} beside {line.rival}: {line.problem}." for line in missing
    ]
    return found


def growth(measured: list[Line]) -> str:
    """A table of series: what one operation takes at the smallest and at the largest, ours."""
    rows = []
    ours = [line for line in measured if line.rival == STANDARD and line.row["series"]]
    for series, group in groupby(ours, lambda line: line.row["series"]):
        points = [line for line in group if line.row["flat"]]
        if len(points) < 2:
            continue
        for name, value in ((OURS, "ours"), (STANDARD, "theirs")):
            values = [getattr(line, value) for line in points]
            known = [it for it in values if it is not None]
            factor = max(known) / min(known) if known else math.nan
            rows.append([series, name, *ends(points, values), f"{factor:.1f}"])
    return markdown(["series", "of", "smallest", "largest", "highest / lowest"], rows)


def ends(points: list[Line], values: list[float | None]) -> list[str]:
    """The first and the last value, with the label of its place in the series."""
    cells = []
    for line, value in ((points[0], values[0]), (points[-1], values[-1])):
        label = line.row["name"].partition(": ")[2]
        cells.append(f"{amount(value, line.row['unit']) or 'failed'} ({label})")
    return cells


def origin(results: dict[str, Any]) -> str:
    """The machine, the versions, the command."""
    facts = ", ".join(f"{key} {value}" for key, value in results["about"].items())
    rounds = "one round" if results["rounds"] == 1 else f"medians of {results['rounds']} rounds"
    part = "" if results["scale"] == 1 else f" of {results['scale']:g} of each workload"
    return f"{rounds}{part}; {facts}."
