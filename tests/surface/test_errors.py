"""Mistakes raise what they raise with the standard library.

`errors.py` makes them with each package, in a process of its own. What differs must be in the
table of COMPATIBILITY.md's section "Errors", and what is there must differ.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMPATIBILITY = HERE.parent.parent / "COMPATIBILITY.md"


def outcomes(package: str) -> dict[str, list[str]]:
    command = [sys.executable, str(HERE / "errors.py"), package]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=110)
    found: dict[str, list[str]] = json.loads(run.stdout)
    return found


def listed() -> dict[str, tuple[str, str]]:
    """The rows of the table: mistake -> (their error, ours)."""
    _, _, rest = COMPATIBILITY.read_text(encoding="utf-8").partition("\n## Errors\n")
    rows = re.findall(r"^\| `(.+?)` \| `(\w+)` \| `(\w+)` \|", rest.partition("\n## ")[0], re.M)
    return {mistake: (theirs, ours) for mistake, theirs, ours in rows}


def test_mistakes_raise_the_same_errors() -> None:
    theirs, ours = outcomes("multiprocessing"), outcomes("sidestep")
    assert theirs.keys() == ours.keys()
    differences = {
        mistake: (classes[0], ours[mistake][0])
        for mistake, classes in theirs.items()
        # Ours may be more special.
        if classes[0] not in ours[mistake]
    }
    assert differences == listed()
