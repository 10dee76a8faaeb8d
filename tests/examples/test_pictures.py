"""The main example: real photographs, damaged ones among them, and folders with nothing in them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

MAIN = Path(__file__).parents[2] / "examples" / "pictures" / "main.py"
SKIMAGE = importlib.util.find_spec("skimage")
assert SKIMAGE is not None and SKIMAGE.origin is not None
SAMPLES = Path(SKIMAGE.origin).parent / "data"


def run(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """What the example writes to stdout and stderr; small prints keep the tests short."""
    command = [sys.executable, "-W", "error", str(MAIN), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with three photographs, one of them in a folder of its own."""
    folder = tmp_path / "album"
    (folder / "holiday").mkdir(parents=True)
    shutil.copy(SAMPLES / "chelsea.png", folder / "cat.png")
    shutil.copy(SAMPLES / "rocket.jpg", folder / "rocket.jpg")
    shutil.copy(SAMPLES / "coffee.png", folder / "holiday" / "cat.png")
    return folder


def test_album_becomes_thumbnails_sheet_and_timeline(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    out, err = run(album, "--output", output, "--prints", "200", "--processes", "2")
    assert err == ""
    assert out.startswith(f"3 pictures from {album}\n")
    assert re.search(r"^serial +\d+\.\d\d s$", out, re.M)
    assert re.search(r"^pool of 2 +\d+\.\d\d s$", out, re.M)
    assert re.search(r"^speed-up +\d+\.\d\d times$", out, re.M)
    assert re.search(r"^results +identical$", out, re.M)
    assert "could not be read" not in out
    names = sorted(file.name for file in (output / "thumbnails").iterdir())
    assert names == ["0001-cat.jpg", "0002-cat.jpg", "0003-rocket.jpg"]
    for name in names:
        with Image.open(output / "thumbnails" / name) as thumbnail:
            assert max(thumbnail.size) == 320
    for name in ("contact-sheet.png", "timeline.png"):
        with Image.open(output / name) as picture:
            picture.load()
            colours = picture.getcolors(1 << 24)
            assert colours is not None and len(colours) > 1_000


def test_timeline_and_sheet_of_a_single_picture(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    out, _ = run(album / "holiday", "--output", output, "--prints", "50", "--processes", "1")
    assert out.startswith("1 picture from ")
    assert (output / "timeline.png").is_file() and (output / "contact-sheet.png").is_file()


def test_damaged_pictures_are_named_and_stop_nothing(album: Path, tmp_path: Path) -> None:
    whole = (SAMPLES / "rocket.jpg").read_bytes()
    (album / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (album / "empty.png").write_bytes(b"")
    (album / "letter [b].jpg").write_text("Dear Ada,")
    broken = bytearray((SAMPLES / "coffee.png").read_bytes())
    broken[5_000:5_400] = bytes(400)
    (album / "scratched.png").write_bytes(broken)
    out, err = run(album, "--output", tmp_path / "out", "--prints", "100")
    assert err == ""
    head, _, tail = out.partition("4 pictures could not be read:\n")
    assert "identical" in head
    damaged = ("cut.jpg", "empty.png", "letter [b].jpg", "scratched.png")
    for line, name in zip(tail.splitlines(), damaged, strict=True):
        assert re.fullmatch(rf"  {re.escape(str(album / name))}: .+", line)
    assert len(list((tmp_path / "out" / "thumbnails").iterdir())) == 3


def test_unusual_kinds_of_pictures(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16", "F", "CMYK"):
        ending = {"F": "tif", "CMYK": "jpg"}.get(mode, "png")
        Image.new(mode, (40, 30)).save(album / f"{mode.replace(';', '')}.{ending}")
    Image.new("RGB", (1, 900)).save(album / "thin.png")
    out, _ = run(album, "--output", tmp_path / "out", "--prints", "60")
    assert "could not be read" not in out
    assert len(list((tmp_path / "out" / "thumbnails").iterdir())) == 9


def test_output_inside_the_album_is_no_input(album: Path) -> None:
    for _ in range(2):
        out, _ = run(album, "--output", album / "out", "--prints", "50")
        assert out.startswith("3 pictures ")


def test_limit_is_said(album: Path, tmp_path: Path) -> None:
    out, _ = run(album, "--output", tmp_path / "out", "--prints", "50", "--limit", "2")
    assert "taking the first 2 (--limit 0 takes all)" in out
    assert len(list((tmp_path / "out" / "thumbnails").iterdir())) == 2


def test_only_damaged_pictures_end_with_one(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "no.jpg").write_bytes(b"no")
    out, _ = run(album, "--output", tmp_path / "out", status=1)
    assert "None of the pictures could be read." in out
    assert f"  {album / 'no.jpg'}: not a picture that Pillow can read" in out


def test_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    # A named pipe must not be opened, however it is called.
    os.mkfifo(tmp_path / "pipe.jpg")
    out, err = run(tmp_path, status=2)
    assert (out, err) == ("", f"There are no pictures in {tmp_path}.\n")


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    out, err = run(tmp_path / "gone", status=2)
    assert (out, err) == ("", f"There is no folder {tmp_path / 'gone'}.\n")


def test_file_instead_of_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file.jpg").write_bytes(b"")
    out, err = run(tmp_path / "file.jpg", status=2)
    assert (out, err) == ("", f"{tmp_path / 'file.jpg'} is not a folder.\n")


def test_without_a_folder_the_photographs_of_scikit_image(tmp_path: Path) -> None:
    out, err = run("--output", tmp_path, "--prints", "64")
    assert err == ""
    found = re.match(r"(\d+) pictures from the photographs inside scikit-image\n", out)
    assert found is not None and int(found[1]) >= 15
    assert "identical" in out and "could not be read" not in out
