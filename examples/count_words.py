"""Count the words of a large text, alone and with a pool.

    python examples/count_words.py [FOLDER] [--files N] [--processes N]

The text is whatever `*.py` files lie in FOLDER; without one, the sources of the running
interpreter's own library: some ten million characters that every installation has. Each task is a
batch of files of about equal weight, each result a table of counts; the parent adds them up.
"""

import argparse
import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import sidestep as multiprocessing

WORD = re.compile(r"[^\W\d_]{2,}")
BATCH_BYTES = 500_000


def count_words(files: Iterable[Path]) -> Counter[str]:
    """How often each word of two letters or more occurs, in lower case."""
    counts: Counter[str] = Counter()
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        counts.update(WORD.findall(text.lower()))
    return counts


def sources(folder: Path, limit: int | None) -> list[Path]:
    """The Python files below `folder` in a fixed order, without installed packages."""
    files = (
        file
        for file in sorted(folder.rglob("*.py"))
        if "site-packages" not in file.parts and file.is_file()
    )
    return [file for number, file in enumerate(files) if limit is None or number < limit]


def batches(files: list[Path]) -> list[list[Path]]:
    """Split into tasks that are large enough to be worth sending and small enough to share."""
    result: list[list[Path]] = [[]]
    size = 0
    for file in files:
        if size > BATCH_BYTES:
            result.append([])
            size = 0
        result[-1].append(file)
        size += file.stat().st_size
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words, serially and with a pool.")
    library = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("folder", nargs="?", type=Path, default=library)
    parser.add_argument("--files", type=int, help="take no more than this many files")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="workers")
    options = parser.parse_args()

    files = sources(options.folder, options.files)
    if not files:
        sys.exit(f"there are no Python files in {options.folder}")
    # Reading everything once also warms the page cache, so that neither run waits for the disk.
    volume = sum(len(file.read_bytes()) for file in files)
    print(f"{len(files)} files, {volume / 1e6:.1f} MB")

    start = time.perf_counter()
    alone = count_words(files)
    serial = time.perf_counter() - start

    start = time.perf_counter()
    together: Counter[str] = Counter()
    with multiprocessing.Pool(options.processes) as pool:
        for counts in pool.imap_unordered(count_words, batches(files)):
            together.update(counts)
    parallel = time.perf_counter() - start

    print(f"{together.total():,} words, {len(together):,} different ones")
    # Ties are broken by the alphabet, so that two runs print the same.
    ranking = sorted(together.items(), key=lambda pair: (-pair[1], pair[0]))
    print("most frequent: " + ", ".join(f"{word} {count:,}" for word, count in ranking[:8]))
    print(f"the same counts: {alone == together}")
    print(
        f"serial {serial:.2f} s, {options.processes} processes {parallel:.2f} s: "
        f"{serial / parallel:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
