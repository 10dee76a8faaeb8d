"""Runs the complaints: each face of each one with the standard library and with sidestep.

    python tests/complaints/columns.py                       this interpreter
    python tests/complaints/columns.py --python PATH ...     others, each with both columns
    python tests/complaints/columns.py --only '*lock*'       some of them
    python tests/complaints/columns.py --record              write the standard column down

`make complaints` calls it. It prints one table, and fails if a face is not fine with sidestep, or
if the standard library does something else than is written down for its version in `verdicts`.
"""

import argparse
import contextlib
import fnmatch
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
VERDICTS = HERE / "verdicts"
DOCUMENT = HERE.parents[1] / "COMPLAINTS.md"

#: After how many seconds a face hangs. The faces need about one; what is fine with sidestep has
#: all the time that a busy machine may need.
PATIENCE_STANDARD = 15.0
PATIENCE_SIDESTEP = 100.0

#: How many seconds what a program leaves running may take to notice that it has ended.
LEAVING = 5.0

#: Written down for a face that is a race, and goes either way with the standard library.
VARIES = "varies"

#: The exit status of a face that cannot be tried on this machine.
IMPOSSIBLE = 77


@dataclass(frozen=True, order=True)
class Face:
    """One way in which a complaint shows."""

    program: str
    name: str

    @property
    def number(self) -> int:
        return int(self.program[1:3])

    @property
    def complaint(self) -> str:
        return self.program[4:]


@dataclass(frozen=True)
class Outcome:
    """What came of a face: `fine`, `fails` or `hangs`, and the last that it has said."""

    verdict: str
    said: str = ""


def faces() -> list[Face]:
    """All faces of all complaints, in order."""
    found = []
    for path in sorted(PROGRAMS.glob("c[0-9][0-9]_*.py")):
        names = re.findall(r"^def face_(\w+)\(\)", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [Face(path.stem, name) for name in names]
    return found


# --- one face ---------------------------------------------------------------------------------


def run_face(
    face: Face, command: Sequence[str], environment: Mapping[str, str], patience: float
) -> Outcome:
    """Run the face in a session of its own, and leave nothing of it alive."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        program = subprocess.Popen(
            [*command, str(PROGRAMS / f"{face.program}.py"), f"face_{face.name}"],
            cwd=folder,
            env={**environment, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Not a pipe: those that the program leaves behind would hold it open.
            stderr=said,
            start_new_session=True,
        )
        verdict = "hangs"
        with contextlib.suppress(subprocess.TimeoutExpired):
            verdict = "fails" if program.wait(patience) else "fine"
        # Helpers end when they see that the program has ended; whoever works on was left behind.
        end = time.monotonic() + LEAVING
        while (left := members(program.pid)) and verdict == "fine":
            if time.monotonic() > end:
                verdict = "fails"
                said.write(f"left {len(left)} processes behind".encode())
            time.sleep(0.005)
        while left := members(program.pid):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        program.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else ""
        if program.returncode == IMPOSSIBLE:
            verdict = "impossible"
        return Outcome(verdict, last)


def members(session: int) -> list[int]:
    """The living processes of a session."""
    return [pid for pid in processes() if session_of(pid) == session]


def processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def session_of(pid: int) -> int | None:
    """The session of a process that is not dead; the dead wait for their parents."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[3]) if fields[0] not in "ZX" else None


def standard(python: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment with which `multiprocessing` is the standard library's."""
    return [python], {name: it for name, it in os.environ.items() if name != "PYTHONPATH"}


def ours(python: str, cache: str, options: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Command and environment with which `multiprocessing` is sidestep."""
    import sidestep

    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(sidestep.__file__).parent.parent),
        "XDG_CACHE_HOME": cache,
    }
    return [python, "-m", "sidestep", *options], environment


# --- what is written down ---------------------------------------------------------------------


def recorded(version: str) -> tuple[str, dict[Face, str]]:
    """The exact version and the verdicts of the standard library of a version such as 3.11."""
    path = VERDICTS / f"{version}.toml"
    if not path.exists():
        return "", {}
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    exact = content.pop("python")
    return exact, {
        Face(program, name): verdict
        for program, table in content.items()
        for name, verdict in table.items()
    }


def record(exact: str, verdicts: Mapping[Face, str]) -> None:
    """Write the verdicts down, beside those that are not among them."""
    version = exact.rpartition(".")[0]
    known = faces()
    kept = {face: it for face, it in recorded(version)[1].items() if face in known}
    # That a race goes either way is something that a person finds out.
    verdicts = {face: VARIES if kept.get(face) == VARIES else it for face, it in verdicts.items()}
    lines = [
        "# What the standard library of this version does: written by columns.py --record.",
        f'python = "{exact}"',
    ]
    program = ""
    for face, verdict in sorted({**kept, **verdicts}.items()):
        if face.program != program:
            program = face.program
            lines += ["", f"[{program}]"]
        lines.append(f'{face.name} = "{verdict}"')
    VERDICTS.mkdir(exist_ok=True)
    (VERDICTS / f"{version}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def block() -> str:
    """The table of verdicts in the document, from what is written down."""
    versions = sorted((path.stem for path in VERDICTS.glob("*.toml")), key=_number)
    columns = [recorded(version) for version in versions]
    lines = [
        "| | face | " + " | ".join(f"Python {exact}" for exact, _ in columns) + " | sidestep |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for face in faces():
        cells = [str(face.number), face.name.replace("_", " ")]
        cells += [
            f"*{it}*" if (it := known.get(face, "?")) != "fine" else it for _, known in columns
        ]
        lines.append("| " + " | ".join([*cells, "fine"]) + " |")
    return "\n".join(lines)


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def document(write: bool = False) -> bool:
    """Compare the document's table with what is written down; or bring it up to date."""
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, rest = text.split("<!-- verdicts -->\n")
    _, end = rest.split("<!-- end of verdicts -->\n")
    right = f"{begin}<!-- verdicts -->\n{block()}\n<!-- end of verdicts -->\n{end}"
    if write:
        DOCUMENT.write_text(right, encoding="utf-8")
    return write or text == right


# --- the table --------------------------------------------------------------------------------


def judge(python: str, chosen: list[Face], arguments: argparse.Namespace) -> bool:
    """Run both columns with one interpreter, print them, and say whether all is as expected."""
    asked = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    )
    exact = asked.stdout.strip()
    written_for, written = recorded(exact.rpartition(".")[0])
    good = True
    found: dict[Face, str] = {}
    print(f"Python {exact}{'':40}standard library   sidestep")
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(arguments.jobs) as executor:
        options = ["--start-method", arguments.start_method] if arguments.start_method else []
        columns = {
            "standard": (*standard(python), PATIENCE_STANDARD),
            "sidestep": (*ours(python, cache, options), PATIENCE_SIDESTEP),
        }
        outcomes = [
            {
                name: executor.submit(run_face, face, *columns[name])
                for name in columns
                if arguments.column in (name, "both")
            }
            for face in chosen
        ]
        nobody = Outcome("-")
        for face, futures in zip(chosen, outcomes):
            theirs = futures["standard"].result() if "standard" in futures else nobody
            mine = futures["sidestep"].result() if "sidestep" in futures else nobody
            name = f"{face.complaint}: {face.name}".replace("_", " ")
            print(f"{face.number:2} {name:70} {theirs.verdict:10} {mine.verdict}", flush=True)
            found[face] = theirs.verdict
            if mine.verdict not in ("fine", "-"):
                good = False
                print(f"   with sidestep: {mine.said}")
            if arguments.verbose and theirs.said:
                print(f"   with the standard library: {theirs.said}")
            if (
                arguments.record
                or theirs is nobody
                or written.get(face)
                in (
                    theirs.verdict,
                    VARIES,
                )
            ):
                continue
            # Another release of the same version may well have mended something.
            good = good and exact != written_for
            print(f"   for Python {written_for} '{written.get(face)}' is written down")
    if arguments.record:
        record(exact, found)
        document(write=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", action="append", help="an interpreter (this one if none)")
    parser.add_argument("--only", default="*", help="a pattern for 'c01_program.face'")
    parser.add_argument("--column", default="both", choices=("both", "standard", "sidestep"))
    parser.add_argument("--start-method", help="of the column of sidestep")
    parser.add_argument("--record", action="store_true", help="write the verdicts down")
    parser.add_argument("--verbose", action="store_true", help="show what failures have said")
    parser.add_argument("--jobs", type=int, default=4, help="how many faces at a time")
    arguments = parser.parse_args()
    chosen = [
        face for face in faces() if fnmatch.fnmatch(f"{face.program}.{face.name}", arguments.only)
    ]
    good = [judge(python, chosen, arguments) for python in arguments.python or [sys.executable]]
    if not document():
        good.append(False)
        print(f"the table in {DOCUMENT.name} is not what is written down: run with --record")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
