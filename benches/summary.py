"""From samples to lines: what each contender took, and how many times less ours did."""

import statistics
from dataclasses import dataclass
from typing import Any

from registry import OURS


@dataclass(frozen=True)
class Line:
    """One workload beside one rival. What could not be measured is None.

    Attributes:
        row: The workload, as the results describe it.
        rival: Who it is compared with.
        theirs: Median of the rival's values.
        ours: Median of our values.
        ratios: theirs / ours of each round: above 1 is in our favour.
        cpu: Median CPU seconds of a sample, theirs and ours.
        peak: Median of the peaks in bytes, theirs and ours.
        problem: Why there is no ratio.
    """

    row: dict[str, Any]
    rival: str
    theirs: float | None
    ours: float | None
    ratios: tuple[float, ...]
    cpu: tuple[float | None, float | None]
    peak: tuple[float | None, float | None]
    problem: str

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def goal(self) -> float | None:
        goal: float | None = self.row["rivals"][self.rival]
        return goal

    @property
    def verdict(self) -> str:
        """ "met" or "short" where there is a goal, "slower" where there is none and we are."""
        most = self.row["most"]
        if most is not None and self.ours is not None:
            return "met" if self.ours <= most else "short"
        if self.ratio is None:
            return ""
        if self.goal is not None:
            return "met" if self.ratio >= self.goal else "short"
        return "slower" if self.is_slower else ""

    @property
    def is_slower(self) -> bool:
        """Whether the rival is ahead, where that matters."""
        return self.ratio is not None and self.ratio < 1 and self.row["most"] is None


def lines(results: dict[str, Any]) -> list[Line]:
    """All lines of a file of results, in the order in which they were measured."""
    return [
        line(row, rival, samples[rival], samples[OURS])
        for name, row in results["workloads"].items()
        for samples in [results["samples"][name]]
        for rival in row["rivals"]
    ]


def line(
    row: dict[str, Any], rival: str, theirs: list[dict[str, Any]], ours: list[dict[str, Any]]
) -> Line:
    pairs = [(a, b) for a, b in zip(theirs, ours) if not a["problem"] and not b["problem"]]
    problems = [sample["problem"] for sample in (*ours, *theirs) if sample["problem"]]
    return Line(
        row,
        rival,
        median(theirs, "value"),
        median(ours, "value"),
        tuple(a["value"] / b["value"] for a, b in pairs if b["value"]),
        (median(theirs, "cpu_seconds"), median(ours, "cpu_seconds")),
        (median(theirs, "peak_bytes"), median(ours, "peak_bytes")),
        problems[0] if problems else "",
    )


def median(samples: list[dict[str, Any]], key: str) -> float | None:
    values = [sample[key] for sample in samples if not sample["problem"]]
    return statistics.median(values) if values else None
