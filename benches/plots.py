"""Plots as SVG. The same figures give the same file, and grey text suits light and dark pages."""

import re
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

from registry import OURS, STANDARD  # noqa: E402
from summary import Line  # noqa: E402
from tables import duration, times  # noqa: E402

METADATA = ("Creator", "Date", "Format", "Type")
TEXT = "#7d8590"
FASTER = "#2f81f7"
SLOWER = "#d98324"
STYLE: Any = {
    "svg.hashsalt": "sidestep",
    # Text stays text: small files, and the reader's own font.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "savefig.transparent": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), TEXT),
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# What the README shows: one of each kind, the losses among them.
SHORT = (
    "queue 10^6",
    "queue 8 MB array",
    "queue ping-pong",
    "pipe ping-pong",
    "pipe 64 KB",
    "lock, two calls",
    "lock, with",
    "event ping-pong",
    "value",
    "make Queue",
    "pool apply",
    "pool map, 10^5",
    "pool 8 MB arrays",
    "start fork",
    "start spawn",
    "start forkserver",
    "manager dict get",
    "import parts",
)


def is_in_short(line: Line) -> bool:
    return line.row["name"] in SHORT and line.rival == STANDARD


def bars(measured: list[Line], target: Path) -> None:
    """A bar for each line: how many times as fast. Goals are strokes across."""
    shown = [line for line in measured if line.ratio and line.row["most"] is None][::-1]
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.19 * len(shown)))
        for place, line in enumerate(shown):
            ratio = line.ratio or 1.0
            axes.barh(place, ratio - 1, left=1, height=0.7, color=FASTER if ratio >= 1 else SLOWER)
            axes.annotate(
                times(ratio),
                (ratio, place),
                xytext=(3 if ratio >= 1 else -3, 0),
                textcoords="offset points",
                va="center",
                ha="left" if ratio >= 1 else "right",
            )
            if line.goal:
                axes.plot([line.goal] * 2, [place - 0.48, place + 0.48], color=TEXT, linewidth=1.5)
        axes.set_xscale("log")
        axes.axvline(1, color=TEXT, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [label(line) for line in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low * 0.6, 0.5), high * 1.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.tick_params(left=False)
        axes.minorticks_off()
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("times as fast, medians; a stroke is the goal")
        save(figure, target)


def label(line: Line) -> str:
    name: str = line.row["name"]
    return name if line.rival == STANDARD else f"{name} / {line.rival}"


def series(measured: list[Line], target: Path) -> None:
    """A panel for each series: what one operation takes as there is more of it."""
    lines = [line for line in measured if line.rival == STANDARD]
    groups = [(name, list(group)) for name, group in groupby(lines, lambda it: it.row["series"])]
    columns = 4
    rows = -(-len(groups) // columns)
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(9, 1.75 * rows), squeeze=False, layout="constrained"
        )
        panels = grid.ravel()
        for axes, (name, group) in zip(panels, groups):
            panel(axes, name, group)
        for axes in panels[len(groups) :]:
            axes.axis("off")
        panels[0].legend(frameon=False, fontsize=7)
        save(figure, target)


def panel(axes: Axes, name: str, group: list[Line]) -> None:
    contenders = (
        (STANDARD, SLOWER, [line.theirs for line in group]),
        (OURS, FASTER, [line.ours for line in group]),
    )
    for contender, color, values in contenders:
        points = [(line.row["x"], it) for line, it in zip(group, values) if it is not None]
        axes.plot(*zip(*points), marker="o", markersize=3, color=color, label=contender)
    axes.set_title(name, fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # A line that looks flat shall be flat: at least a factor of a hundred from bottom to top.
    low, high = axes.get_ylim()
    if high / low < 100:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10, middle * 10)
    axes.set_xticks([line.row["x"] for line in group], [short(line) for line in group])
    axes.tick_params(axis="x", labelsize=6, labelrotation=45 if len(group) > 5 else 0)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.grid(axis="y")


def short(line: Line) -> str:
    """The label of a point, without the noun that the title has."""
    text: str = line.row["name"].partition(": ")[2]
    return text.removesuffix(" processes").removesuffix(" process")


def save(figure: matplotlib.figure.Figure, target: Path) -> None:
    """Write the file without what depends on the moment, and without what nobody sees."""
    text = StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata=dict.fromkeys(METADATA))
    pyplot.close(figure)
    lean = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    lean = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", lean)
    lines = (line.strip() for line in lean.splitlines())
    target.write_text("\n".join(filter(None, lines)) + "\n")
