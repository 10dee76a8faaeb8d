"""Many photographs, first one after the other, then by a pool of processes.

    python examples/pictures/main.py               # the photographs inside scikit-image
    python examples/pictures/main.py ~/Pictures    # your own; nothing in there is changed

Each picture is decoded, brought to several sizes, sharpened and encoded; its thumbnail is
written. At the end there are both times, a contact sheet, and a timeline that shows which worker
did which picture when. Pictures that cannot be read are listed by name and stop nothing.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import sidestep as multiprocessing
from darkroom import Job, develop
from gather import NothingToDoError, pictures_in, sample_pictures
from report import Run, contact_sheet, timeline

# The sample photographs are small, so they are enlarged to prints: enough work to see a
# difference. Photographs of a camera are work enough at the sizes of a web page.
PRINTS_OF_SAMPLES = (2000, 1600, 1200, 800)
PRINTS_OF_PHOTOS = (1600, 800)


def main() -> int:
    options = parse_arguments()
    console = Console(highlight=False, soft_wrap=True)
    try:
        if options.folder:
            sources = pictures_in(options.folder, leave_out=options.output)
        else:
            sources = sample_pictures()
    except NothingToDoError as error:
        print(error, file=sys.stderr)
        return 2
    prints = options.prints or (PRINTS_OF_PHOTOS if options.folder else PRINTS_OF_SAMPLES)
    where = str(options.folder) if options.folder else "the photographs inside scikit-image"
    console.print(f"{counted(len(sources), 'picture')} from {where}", markup=False)
    if options.limit and len(sources) > options.limit:
        sources = sources[: options.limit]
        console.print(f"taking the first {options.limit} (--limit 0 takes all)")

    thumbnails = options.output / "thumbnails"
    thumbnails.mkdir(parents=True, exist_ok=True)
    jobs = make_jobs(sources, thumbnails, prints)
    serial = run_serially(jobs, console)
    parallel = run_in_pool(jobs, options.processes, console)
    return conclude(serial, parallel, options, console)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Develop photographs serially and with a pool of processes."
    )
    parser.add_argument("folder", nargs="?", type=Path, help="your pictures (read only)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--processes", type=positive, default=usable_processors(), metavar="N")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="most pictures to take")
    parser.add_argument(
        "--prints", type=positive, nargs="+", metavar="PIXELS", help="sizes to make of each picture"
    )
    options = parser.parse_args()
    if options.folder:
        options.folder = options.folder.expanduser()
    return options


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def usable_processors() -> int:
    """Processors that this process may use, which in a container are often not all."""
    return len(os.sched_getaffinity(0))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def make_jobs(sources: list[Path], thumbnails: Path, prints: tuple[int, ...]) -> list[Job]:
    """One job per picture; numbers keep pictures of the same name in different folders apart."""
    return [
        Job(source, thumbnails / f"{number:04}-{source.stem}.jpg", tuple(prints))
        for number, source in enumerate(sources, 1)
    ]


@contextmanager
def progress_bar(title: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """A bar on the terminal; the function it gives moves it on by one."""
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Refreshed here and not by a thread of its own: a process with threads should not fork.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task(title, total=total)

        def advance() -> None:
            progress.advance(task)
            progress.refresh()

        yield advance


def size_of(file: Path) -> int:
    """Bytes of the file, or 0 if it is gone: the worker that opens it will report that."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def run_serially(jobs: list[Job], console: Console) -> Run:
    outcomes = []
    with progress_bar("one process", len(jobs), console) as advance:
        start = time.monotonic()
        for job in jobs:
            outcomes.append(develop(job))
            advance()
        end = time.monotonic()
    return Run("serial", start, end, outcomes)


def run_in_pool(jobs: list[Job], processes: int, console: Console) -> Run:
    """The same jobs by a pool. Its time includes starting and stopping the workers."""
    outcomes = []
    # Large files first: when the last ones are small, all workers end at nearly the same time.
    ordered = sorted(jobs, key=lambda job: size_of(job.source), reverse=True)
    with progress_bar(counted(processes, "worker"), len(jobs), console) as advance:
        start = time.monotonic()
        with multiprocessing.Pool(processes) as pool:
            for outcome in pool.imap_unordered(develop, ordered):
                outcomes.append(outcome)
                advance()
            pool.close()
            pool.join()
        end = time.monotonic()
    outcomes.sort(key=lambda outcome: outcome.job.thumbnail)
    return Run("pool", start, end, outcomes)


def conclude(serial: Run, parallel: Run, options: argparse.Namespace, console: Console) -> int:
    """Say what came out and write the two pictures; the exit code is 1 if nothing could be read."""
    unreadable = [outcome for outcome in parallel.outcomes if outcome.problem]
    done = len(parallel.outcomes) - len(unreadable)
    status = 0
    if done:
        sheet, times = options.output / "contact-sheet.png", options.output / "timeline.png"
        title = f"{counted(done, 'picture')}, developed in {parallel.seconds:.2f} s"
        contact_sheet(parallel.outcomes, sheet, title)
        timeline(serial, parallel, times)
        same = [a.checksum == b.checksum for a, b in zip(serial.outcomes, parallel.outcomes)]
        verdict = "identical" if all(same) else f"different in {counted(same.count(False), 'case')}"
        rows = [
            f"serial        {serial.seconds:7.2f} s",
            f"pool of {options.processes:<5} {parallel.seconds:7.2f} s",
            f"speed-up      {serial.seconds / parallel.seconds:7.2f} times",
            f"results       {verdict}",
            f"contact sheet {sheet}",
            f"timeline      {times}",
        ]
        status = 0 if all(same) else 1
    else:
        rows = ["None of the pictures could be read."]
        status = 1
    if unreadable:
        rows.append(f"{counted(len(unreadable), 'picture')} could not be read:")
        rows += [f"  {outcome.job.source}: {outcome.problem}" for outcome in unreadable]
    for row in rows:
        console.print(row, markup=False)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
