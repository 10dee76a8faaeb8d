"""Run the engine's own benches: times, and instructions where valgrind is found.

    make bench-engine
    make bench-engine BENCH=queue

Times are those of `cargo bench`. Instructions are counted by callgrind for the operations that
need one process; unlike times they are the same on a busy machine. All goes to
`benches/results`, if nothing is picked.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import BENCHES, about, others
from tables import duration, markdown, origin, size

# Two runs of so many, whose difference leaves out what happens only once.
COUNTS = (100, 300)
BUILD = ["cargo", "bench", "--package", "sidestep", "--bench", "engine", "--locked"]
# A line of the harness: its place in the tree, and for an operation fastest, slowest, median.
LINE = re.compile(r"^(?P<tree>[│ ]*[├╰]─ )(?P<name>\S+)(?P<rest>.*)$")
UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the engine's benches.")
    parser.add_argument("filter", nargs="?", default="", help="a part of the operations' names")
    options = parser.parse_args()
    binary = build()
    busy = others()
    operations: dict[str, dict[str, Any]] = {
        name: {"seconds": seconds, "fastest": fastest, "instructions": None}
        for name, (fastest, seconds) in timed(binary, options.filter).items()
    }
    if not operations:
        print(f"no operation of the engine has {options.filter!r} in its name", file=sys.stderr)
        return 2
    if shutil.which("valgrind"):
        for name, figures in operations.items():
            if name.startswith("alone::"):
                figures["instructions"] = instructions(binary, name)
    else:
        print("valgrind is not installed: no instructions are counted")
    here = about(["make", "bench-engine"]) | {"other programs": busy()}
    results = {
        "suite": "engine",
        "about": here,
        "rounds": 100,
        "scale": 1,
        "operations": operations,
    }
    print(table(results))
    print()
    print(origin(results))
    if not options.filter:
        target = BENCHES / "results" / f"engine-{here['date']}.json"
        target.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {target}")
    return 0


def build() -> str:
    """Build the benches; the path of the program."""
    command = [*BUILD, "--no-run", "--message-format=json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for message in map(json.loads, output.splitlines()):
        if message.get("executable") and message["target"]["name"] == "engine":
            return str(message["executable"])
    raise SystemExit("cargo did not say where it has put the program")


def timed(binary: str, part: str) -> dict[str, tuple[float, float]]:
    """Fastest and median seconds of each operation whose name has `part` in it."""
    command = [binary, "--bench", *([part] if part else [])]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found, path = {}, [""] * 8
    for line in filter(None, map(LINE.match, output.splitlines())):
        depth = len(line["tree"]) // 3
        path[depth] = line["name"]
        cells = [cell.strip() for cell in line["rest"].split("│")]
        if cells[0]:
            found["::".join(path[1 : depth + 1])] = seconds(cells[0]), seconds(cells[2])
    return found


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def instructions(binary: str, name: str) -> float:
    """Instructions of one operation, counted by callgrind."""
    function = name.split("::")[1]
    few, many = (counted(binary, name, f"engine::alone::{function}_once", n) for n in COUNTS)
    return (many - few) / (COUNTS[1] - COUNTS[0])


def counted(binary: str, name: str, function: str, n: int) -> int:
    """Instructions inside of `function` while the operation is done `n` times."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "callgrind.out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={target}"]
        command += [f"--toggle-collect={function}*", binary, "--bench", "--exact"]
        command += [f"engine::{name}", "--sample-count", "1", "--sample-size", str(n)]
        subprocess.run(command, check=True, capture_output=True)
        total = re.search(r"^totals: (\d+)$", target.read_text(), re.MULTILINE)
    if total is None:
        raise SystemExit(f"callgrind has counted nothing in {function}")
    return int(total[1])


def label(name: str) -> str:
    """`queue, 64 B` for `alone::queue::64`."""
    _, operation, *bytes_each = name.split("::")
    return ", ".join([operation, *(size(int(count)) for count in bytes_each)])


def table(results: dict[str, Any]) -> str:
    rows = [
        [
            label(name),
            "one" if name.startswith("alone") else "two",
            duration(figures["seconds"]),
            duration(figures["fastest"]),
            "" if figures["instructions"] is None else f"{figures['instructions']:.0f}",
        ]
        for name, figures in results["operations"].items()
    ]
    return markdown(["operation", "processes", "median", "fastest", "instructions"], rows)


if __name__ == "__main__":
    sys.exit(main())
