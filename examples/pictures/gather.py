"""Which pictures there are: in the user's folder, or those that scikit-image brings along."""

import importlib.util
import os
from pathlib import Path

from PIL import Image

# The photographs among the test data inside scikit-image's wheel; its drawings, chess boards and
# logos are left out. Names that a release no longer ships are passed over.
SAMPLES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)


class NothingToDoError(Exception):
    """There is no picture to work on; the message is one sentence for the user."""


def sample_pictures() -> list[Path]:
    """The photographs inside the installed scikit-image, without importing it."""
    # Importing it would load numpy, whose threads have no business in a program that forks.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise NothingToDoError(
            "scikit-image, whose photographs are the default, is not installed: name a folder."
        )
    data = Path(spec.origin).parent / "data"
    found = [data / name for name in SAMPLES if (data / name).is_file()]
    if not found:
        raise NothingToDoError(f"The installed scikit-image has no photographs in {data}.")
    return found


def pictures_in(folder: Path, leave_out: Path) -> list[Path]:
    """All files below `folder` that are called like a picture, in the order of their paths.

    Hidden files and folders are passed over, and so is the folder `leave_out`: the output of an
    earlier run is no input for the next.
    """
    if not folder.exists():
        raise NothingToDoError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NothingToDoError(f"{folder} is not a folder.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise NothingToDoError(f"The folder {folder} may not be read.")
    endings = readable_endings()
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and Path(path, name).resolve() != leave_out.resolve()
        ]
        for name in names:
            file = Path(path, name)
            # A named pipe that calls itself a picture would keep a worker waiting for ever.
            if not name.startswith(".") and file.suffix.lower() in endings and file.is_file():
                found.append(file)
    if not found:
        raise NothingToDoError(f"There are no pictures in {folder}.")
    return sorted(found)


def readable_endings() -> set[str]:
    """Endings of the raster formats that Pillow can open, such as `.jpg`."""
    documents = {"PDF", "EPS", "WMF", "MPEG"}
    return {
        ending
        for ending, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in documents
    }
