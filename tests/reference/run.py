"""Run the interpreter's own multiprocessing tests with the package in the place of multiprocessing.

    make conformance
    make conformance CONFORMANCE="--start-method spawn --filter '*Queue.*'"
    python tests/reference/run.py --python .venv-3.13/bin/python --start-method fork

The tests are those that the interpreter has installed; none is kept here. They run under `python
-m sidestep`, where every process that says `import multiprocessing` gets the package, with
whatever flags it was started. Each class runs in a process of its own. A test that hangs is ended
and counted, and the rest of its class goes on in a new process, as after a crash.

`expected.toml` names the tests that are known to fail here, each with its reason. Everything else
must pass, or be skipped for a reason that the standard library's own run has too; and a test that
is named there and passes is an error as well. A test that fails is run once more, by itself: some
of them measure time, and a busy machine is no fault of the package. The summary counts those.
"""

import argparse
import fnmatch
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.toml"
WORKER = HERE / "worker.py"
METHODS = ("fork", "spawn", "forkserver")
METHOD_VARIABLE = "REFERENCE_START_METHOD"
# How long processes that a class has left behind may take to end when they are asked to.
GRACE_S = 2.0
TICK_S = 0.05

PROBE = """
import importlib.util, json, sys
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps([sys.version.split()[0], there("sidestep"), there("test._test_multiprocessing")]))
"""


@dataclass(frozen=True)
class Case:
    """A class of tests, for one start method."""

    method: str
    module: str
    name: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of a test: `passed`, `skipped`, `failed`, `hung` or `died` (its process did)."""

    case: Case
    test: str
    outcome: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.case.name}.{self.test}"


@dataclass(frozen=True)
class Expected:
    """The part of `expected.toml` that concerns one version of Python and one start method."""

    skips: tuple[str, ...]
    differences: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, version: str, method: str, path: Path = EXPECTED) -> "Expected":
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        minor = version.rpartition(".")[0]
        differences = [
            entry
            for entry in table["difference"]
            if minor in entry.get("python", [minor])
            and method in entry.get("start_methods", [method])
        ]
        return cls(tuple(table["skips"]), tuple(differences))

    def differs(self, name: str) -> bool:
        return any(
            fnmatch.fnmatchcase(name, pattern) for d in self.differences for pattern in d["tests"]
        )

    def complaint(self, result: Result) -> str:
        """Why the result is not as it should be; empty if it is."""
        if result.outcome == "passed" or self.skipped_as_known(result):
            if self.differs(result.name):
                return f"{result.outcome}, although expected.toml says that it fails"
            return ""
        if self.differs(result.name):
            return ""
        if result.outcome == "skipped":
            return f"skipped for a reason that expected.toml does not know: {result.text}"
        return result.outcome

    def skipped_as_known(self, result: Result) -> bool:
        return result.outcome == "skipped" and any(
            fnmatch.fnmatchcase(result.text, pattern) for pattern in self.skips
        )

    def stale(self, cases: Iterable[Case]) -> list[str]:
        """The patterns that name no test of a class that is there."""
        names = [f"{case.name}.{test}" for case in cases for test in case.tests]
        classes = {name.partition(".")[0] for name in names}
        return [
            pattern
            for difference in self.differences
            for pattern in difference["tests"]
            if fnmatch.filter(classes, pattern.partition(".")[0])
            and not fnmatch.filter(names, pattern)
        ]


# --- one process ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a process that ran tests has reported, and how it ended."""

    reports: list[list[str]]
    hung: bool
    status: int
    output: str

    @property
    def ending(self) -> str:
        return f"the process ended with status {self.status}; its output:\n{self.output[-4000:]}"


def run_process(worker: Sequence[str], method: str, tests: Iterable[str], timeout_s: float) -> Run:
    """Run tests until their process ends, or until it has reported nothing for `timeout_s`."""
    with tempfile.TemporaryDirectory(prefix="ref-", ignore_cleanup_errors=True) as folder:
        reports, output = Path(folder, "reports"), Path(folder, "output")
        reports.touch()
        with output.open("wb") as log:
            child = subprocess.Popen(
                [*worker, "run", str(reports), *tests],
                env=environment(method) | {"TMPDIR": folder},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            hung = not wait_while_busy(child.pid, reports, timeout_s)
            if hung:
                child.send_signal(signal.SIGABRT)  # its stacks go to the output
                wait_for_end(child.pid, GRACE_S)
        finally:
            # It is not reaped yet, so that nobody else's group can have this number.
            end_group(child.pid)
            status = child.wait()
        lines = [json.loads(line) for line in reports.read_text().splitlines()]
        return Run(lines, hung, status, output.read_text(errors="replace"))


def environment(method: str) -> dict[str, str]:
    """The variables for a worker; none that steers Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {METHOD_VARIABLE: method}


def wait_while_busy(pid: int, reports: Path, timeout_s: float) -> bool:
    """Whether the process has ended; false if there were no new reports for too long."""
    size, since = 0, time.monotonic()
    while not wait_for_end(pid, TICK_S):
        if (now := reports.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > timeout_s:
            return False
    return True


def wait_for_end(pid: int, timeout_s: float) -> bool:
    """Wait for the end of a child without reaping it: whether it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def end_group(group: int) -> None:
    """End what is left of a group of processes, gently first: some tidy up after the others."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_S
        while members(group) and time.monotonic() < deadline:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                return
            time.sleep(TICK_S)


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


# --- one class ------------------------------------------------------------------------------


def run_case(worker: Sequence[str], case: Case, timeout_s: float) -> Iterator[Result]:
    """Run the tests of a class, in as many processes as hangs and crashes make necessary.

    What goes wrong outside of tests is a result of the test `(set-up)` or `(end)`.
    """
    pending = list(case.tests)
    while pending:
        names = [f"{case.module}.{case.name}.{test}" for test in pending]
        run = run_process(worker, case.method, names, timeout_s)
        running = ""
        for test, outcome, text in run.reports:
            if outcome == "started":
                running = test
            elif test:
                running = ""
                pending.remove(test)
                yield Result(case, test, outcome, text)
            elif outcome == "skipped":  # by the set-up, for all that would have followed
                yield from (Result(case, test, outcome, text) for test in pending)
                pending.clear()
            else:
                yield Result(case, "(set-up)", outcome, text)
        ending = "hung" if run.hung else "died"
        if running:
            pending.remove(running)
            yield Result(case, running, ending, run.ending)
        elif pending:
            yield from (Result(case, test, ending, run.ending) for test in pending)
            pending.clear()
        elif run.hung or run.status:
            yield Result(case, "(end)", ending, run.ending)


def list_cases(worker: Sequence[str], method: str, patterns: Sequence[str]) -> list[Case]:
    """The classes with the tests that the patterns choose."""
    listing = subprocess.run(
        [*worker, "list"], env=environment(method), stdout=subprocess.PIPE, text=True
    )
    if listing.returncode:
        sys.exit(f"the tests of {worker[0]} cannot be imported with the package: see above")
    cases = []
    for line in listing.stdout.splitlines():
        module, name, tests = json.loads(line)
        chosen = [
            test
            for test in tests
            if any(fnmatch.fnmatchcase(f"{name}.{test}", pattern) for pattern in patterns)
        ]
        if chosen:
            cases.append(Case(method, module, name, tuple(chosen)))
    return cases


# --- all of them ----------------------------------------------------------------------------


def run_method(worker: Sequence[str], expected: Expected, cases: list[Case], options: Any) -> bool:
    """Run and judge all classes of one start method; whether everything is as it should be."""
    start = time.monotonic()

    def run_and_judge(case: Case) -> tuple[Counter[str], list[str]]:
        counts: Counter[str] = Counter()
        lines = []
        for result in run_case(worker, case, options.timeout):
            complaint = expected.complaint(result)
            if complaint and not result.test.startswith("("):
                alone = Case(case.method, case.module, case.name, (result.test,))
                second = list(run_case(worker, alone, options.timeout))
                if not any(expected.complaint(again) for again in second):
                    counts["unsteady"] += 1
                    lines.append(f"UNSTEADY {case.method} {result.name}: {result.outcome} once")
                    result, complaint = second[0], ""
            if complaint:
                counts["unexpected"] += 1
                lines.append(f"UNEXPECTED {case.method} {result.name}: {complaint}")
                lines.append(result.text)
            else:
                known = result.outcome in ("passed", "skipped")
                counts[result.outcome if known else "differ"] += 1
        return counts, lines

    total: Counter[str] = Counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        for case, (counts, lines) in zip(cases, pool.map(run_and_judge, cases)):
            total += counts
            if options.verbose:
                print(case.method, case.name, dict(counts))
            for line in lines:
                print(line, flush=True)
    print(
        f"{options.version}, {cases[0].method}: {total['passed']} passed, "
        f"{total['skipped']} skipped as by the standard library, "
        f"{total['differ']} differ as expected, {total['unsteady']} at the second try, "
        f"{total['unexpected']} unexpected, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return not total["unexpected"]


def main() -> int:
    options = parse_arguments()
    options.version = check_interpreter(options.python)
    worker = [options.python, "-m", "sidestep", str(WORKER)]
    good = True
    ran = False
    for method in options.start_method or METHODS:
        cases = list_cases(worker, method, options.filter or ["*"])
        if not cases:
            continue
        ran = True
        expected = Expected.read(options.version, method)
        if not options.filter:
            for pattern in expected.stale(cases):
                print(f"UNEXPECTED {method} {pattern}: expected.toml names it, and there is none")
                good = False
        good = run_method(worker, expected, cases, options) and good
    if not ran:
        sys.exit("no test is called like that: a filter is a glob on Class.test, as '*Queue.*'")
    return 0 if good else 1


def check_interpreter(python: str) -> str:
    """The version of an interpreter that has what is needed; else ends with one sentence."""
    try:
        probe = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{python} is no Python that runs: {error}")
    version, has_package, has_tests = json.loads(probe.stdout)
    if not has_package:
        sys.exit(f"{python} cannot import sidestep: name an interpreter that has it, by --python")
    if not has_tests:
        sys.exit(
            f"Python {version} at {python} comes without the standard library's tests (the module "
            "test._test_multiprocessing): some distributions keep them in a package of their own "
            "(libpython3-testsuite on Debian); install it, or take another Python by PY=... or "
            "--python"
        )
    return str(version)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run the interpreter's own multiprocessing tests against sidestep."
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        type=os.path.abspath,
        help="an interpreter with sidestep",
    )
    parser.add_argument(
        "--start-method", choices=METHODS, action="append", help="only this one (repeatable)"
    )
    parser.add_argument(
        "--filter", metavar="GLOB", action="append", help="only such Class.test (repeatable)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="classes at a time (2)")
    parser.add_argument(
        "--timeout", type=float, default=120, help="seconds after which a test hangs (120)"
    )
    parser.add_argument("--verbose", action="store_true", help="print a line for each class")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
