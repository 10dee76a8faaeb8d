"""From the results that are kept to the tables of BENCHMARKS.md and the plots: `make figures`.

Takes the newest results of each suite, and runs nothing. What it makes depends on them alone.
"""

import json
import re
import sys
from typing import Any

import engine
import plots
from machine import BENCHES
from summary import Line, lines
from tables import conclusions, growth, origin, table

DOCUMENT = BENCHES.parent / "BENCHMARKS.md"
RESULTS = BENCHES / "results"
PLOTS = BENCHES / "plots"


def main() -> int:
    text = DOCUMENT.read_text()
    PLOTS.mkdir(exist_ok=True)
    for suite, results in newest().items():
        if suite == "engine":
            parts = [origin(results), engine.table(results)]
            text = filled(text, suite, "\n\n".join(parts))
            continue
        measured = lines(results)
        draw(suite, measured)
        text = filled(text, suite, region(suite, results, measured))
    DOCUMENT.write_text(text)
    return 0


def newest() -> dict[str, Any]:
    """The latest results of each suite; their names begin with suite and date."""
    found = {}
    for file in sorted(RESULTS.glob("*.json")):
        results = json.loads(file.read_text())
        found[results["suite"]] = results
    return found


def draw(suite: str, measured: list[Line]) -> None:
    if suite == "bench":
        plots.bars(measured, PLOTS / "ratios.svg")
        plots.bars([line for line in measured if plots.is_in_short(line)], PLOTS / "short.svg")
    elif suite == "rivals":
        plots.bars(measured, PLOTS / "rivals.svg")
    elif suite == "scaling":
        plots.series(measured, PLOTS / "scaling.svg")


def region(suite: str, results: dict[str, Any], measured: list[Line]) -> str:
    """What stands between the marks: the origin first, what is lost, then the figures."""
    parts = [origin(results), *[f"- {sentence}" for sentence in conclusions(measured)]]
    whole = table(measured, suite)
    if suite == "scaling":
        parts += [growth(measured), folded("All figures of growth", whole)]
    else:
        parts.append(whole)
    return "\n\n".join(parts)


def folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def filled(document: str, suite: str, text: str) -> str:
    """The document with `text` between the marks of the suite."""
    begin, end = f"<!-- figures: {suite} -->", "<!-- end of figures -->"
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    new, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document)
    if count != 1:
        raise SystemExit(f"{DOCUMENT.name} has {count} places for the figures of {suite}, not 1")
    return new


if __name__ == "__main__":
    sys.exit(main())
