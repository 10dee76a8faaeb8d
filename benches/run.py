"""Measure the package beside the standard library and others.

    make bench                                    # or bench-scaling, bench-memory, bench-rivals
    python benches/run.py --only 'queue*' --only 'pipe*' --rounds 9
    python benches/run.py scaling --quick
    python benches/run.py --list

Each sample runs in a fresh interpreter. Within a round the contenders take turns, and the next
round turns their order round, so that whatever else the machine does hits all of them alike. The
table gives the median of what one operation took and of the rounds' own ratios, with the lowest
and the highest of them. CPU seconds are those of all processes of a sample together.

A run of a whole suite is kept in `benches/results`, from which `make figures` makes the tables
and plots of the documents.
"""

import argparse
import compileall
import fnmatch
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sidestep
from machine import about, command_line, others
from measure import Sample, run_rounds
from registry import SUITES, Workload, load
from summary import lines
from tables import conclusions, origin, table

RESULTS = Path(__file__).parent / "results"
QUICK = {"rounds": 1, "scale": 0.1}


def main() -> int:
    options = parse_arguments()
    workloads = load(options.suite)
    chosen = [name for name in workloads if is_wanted(name, options.only, options.skip)]
    if options.list:
        for name in chosen:
            print(f"{name:<32} {workloads[name].sentence}")
        return 0
    if not chosen:
        print(
            f"no workload of {options.suite} is called like {' or '.join(options.only)}; "
            "--list names them",
            file=sys.stderr,
        )
        return 2
    compile_all()
    here, busy = about(command_line()), others()
    samples = {
        name: run_rounds(options.suite, workloads[name], options.rounds, options.scale, show)
        for name in chosen
    }
    here["other programs"] = busy()
    results = plain(options, here, {name: workloads[name] for name in chosen}, samples)
    measured = lines(results)
    print(table(measured, options.suite))
    print()
    print(*conclusions(measured), sep="\n")
    print(origin(results))
    target = options.json
    if not target and len(chosen) == len(workloads) and options.scale == 1:
        target = RESULTS / f"{options.suite}-{here['date']}-python{here['python']}.json"
    if target:
        target.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {target}")
    broken = [line for line in measured if line.ours is None]
    return 1 if broken else 0


def compile_all() -> None:
    """Compile the package and these tools, as an installation does.

    Else each fresh interpreter of a sample would, where none may write the outcome.
    """
    for folder in (Path(sidestep.__file__).parent, Path(__file__).parent):
        compileall.compile_dir(folder, quiet=2)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure sidestep beside others.")
    parser.add_argument("suite", nargs="?", choices=SUITES, default="bench")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="run these, repeatable")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN", help="but not these, repeatable"
    )
    parser.add_argument("--rounds", type=int, help="samples of each contender (default 3)")
    parser.add_argument("--scale", type=float, help="do this part of each workload (default 1)")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the samples go")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    options = parser.parse_args()
    options.only = options.only or ["*"]
    options.rounds = options.rounds or (QUICK["rounds"] if options.quick else 3)
    options.scale = options.scale or (QUICK["scale"] if options.quick else 1)
    return options


def is_wanted(name: str, only: list[str], skip: list[str]) -> bool:
    def matches(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return matches(only) and not matches(skip)


def show(progress: str) -> None:
    """Replace the line at the foot of a terminal; nothing when stderr goes to a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def plain(
    options: argparse.Namespace,
    here: dict[str, str],
    workloads: dict[str, Workload],
    samples: dict[str, dict[str, list[Sample]]],
) -> dict[str, Any]:
    """Everything as JSON has it; tables and plots need nothing else."""
    return {
        "suite": options.suite,
        "about": here,
        "rounds": options.rounds,
        "scale": options.scale,
        "workloads": {
            name: {key: value for key, value in vars(workload).items() if key != "run"}
            for name, workload in workloads.items()
        },
        "samples": {
            name: {contender: list(map(asdict, many)) for contender, many in row.items()}
            for name, row in samples.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
