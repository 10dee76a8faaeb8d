"""The two pictures at the end: a contact sheet, and a timeline of who did which picture when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from darkroom import Outcome

PAPER = (22, 23, 26)
PANEL = (33, 35, 40)
EDGE = (62, 66, 74)
INK = (236, 234, 228)
FADED = (150, 152, 158)
ACCENT = (255, 176, 59)

# Everything is drawn at twice the size and then reduced: Pillow's lines and corners are not
# smooth by themselves.
FINE = 2


@dataclass(frozen=True)
class Run:
    """One pass over all pictures: when it began and ended, and what came out."""

    label: str
    start: float
    end: float
    outcomes: Sequence[Outcome]

    @property
    def seconds(self) -> float:
        return self.end - self.start


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * FINE)


def shortened(text: str, width: float, size: float) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` (fine pixels)."""
    face = font(size)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


# --- contact sheet --------------------------------------------------------------------------


def contact_sheet(outcomes: Sequence[Outcome], target: Path, title: str) -> None:
    """Write all thumbnails, in the order of their names, as one sheet."""
    done = [outcome for outcome in outcomes if not outcome.problem]
    columns = well_filled_columns(len(done))
    rows = math.ceil(len(done) / columns)
    cell, caption, gap, margin, head = 232, 26, 18, 36, 84

    width = 2 * margin + columns * cell + (columns - 1) * gap
    height = margin + head + rows * (cell + caption + gap)
    sheet = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin * FINE, (margin - 6) * FINE), "Contact sheet", INK, font(26))
    draw.text((margin * FINE, (margin + 30) * FINE), title, FADED, font(14))

    for number, outcome in enumerate(done):
        left = margin + (number % columns) * (cell + gap)
        top = margin + head + (number // columns) * (cell + caption + gap)
        frame = (left * FINE, top * FINE, (left + cell) * FINE, (top + cell) * FINE)
        draw.rounded_rectangle(frame, 8 * FINE, PANEL)
        with Image.open(outcome.job.thumbnail) as file:
            inner = (cell - 20) * FINE
            picture = ImageOps.contain(
                file.convert("RGB"), (inner, inner), Image.Resampling.LANCZOS
            )
        corner = (
            frame[0] + (cell * FINE - picture.width) // 2,
            frame[1] + (cell * FINE - picture.height) // 2,
        )
        sheet.paste(picture, corner)
        name = shortened(outcome.job.source.name, cell * FINE, 13)
        middle = (left + cell / 2) * FINE
        draw.text((middle, (top + cell + 19) * FINE), name, FADED, font(13), anchor="ms")
    sheet.reduce(FINE).save(target)


def well_filled_columns(pictures: int) -> int:
    """How many columns make a sheet a little wider than high, with a last row that is full."""
    ideal = math.sqrt(pictures * 1.4)
    candidates = range(max(1, math.floor(ideal) - 1), min(12, math.ceil(ideal) + 1) + 1)
    fitting = [columns for columns in candidates if columns <= pictures]
    return min(fitting, key=lambda columns: (-pictures % columns, abs(columns - ideal)), default=12)


# --- timeline -------------------------------------------------------------------------------


class Timeline:
    """Lanes under one time axis: the serial run on top, one lane per worker below."""

    WIDTH, MARGIN, LABEL, LANE, GAP = 1600, 40, 118, 92, 14
    HEAD, AXIS = 116, 54

    def __init__(self, serial: Run, parallel: Run) -> None:
        self.serial, self.parallel = serial, parallel
        self.workers = sorted({outcome.pid for outcome in parallel.outcomes})
        # The earliest starter is worker 1.
        first = dict.fromkeys(self.workers, math.inf)
        for outcome in parallel.outcomes:
            first[outcome.pid] = min(first[outcome.pid], outcome.start)
        self.workers.sort(key=lambda pid: first[pid])
        self.span = max(serial.seconds, parallel.seconds) * 1.01
        # Many lanes are drawn lower, so that the picture stays a picture on large machines.
        self.lane = self.LANE if len(self.workers) <= 8 else max(26, 760 // len(self.workers))
        lanes = len(self.workers) + 1
        self.height = self.HEAD + lanes * (self.lane + self.GAP) + 2 * self.GAP + self.AXIS
        self.sheet = Image.new("RGB", (self.WIDTH * FINE, self.height * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.sheet)

    def x(self, seconds: float) -> float:
        """The place on the axis, in fine pixels."""
        usable = self.WIDTH - self.LABEL - 2 * self.MARGIN
        return (self.MARGIN + self.LABEL + usable * seconds / self.span) * FINE

    def render(self, target: Path) -> None:
        top = self.HEAD
        bottom = self.height - self.AXIS
        self.title()
        self.axis(top, bottom)
        self.row(top, "serial", "one process", self.serial, list(self.serial.outcomes))
        top += self.lane + 3 * self.GAP
        self.draw.line(
            [
                (self.MARGIN * FINE, (top - 1.5 * self.GAP) * FINE),
                ((self.WIDTH - self.MARGIN) * FINE, (top - 1.5 * self.GAP) * FINE),
            ],
            EDGE,
            FINE,
        )
        first = top
        for number, pid in enumerate(self.workers, 1):
            mine = [outcome for outcome in self.parallel.outcomes if outcome.pid == pid]
            self.row(top, f"worker {number}", f"{len(mine)} pictures", self.parallel, mine)
            top += self.lane + self.GAP
        self.finish(first, top - self.GAP)
        self.sheet.reduce(FINE).save(target)

    def title(self) -> None:
        left = self.MARGIN * FINE
        speed_up = self.serial.seconds / self.parallel.seconds
        headline = f"{speed_up:.2f} times as fast"
        self.draw.text((left, 30 * FINE), headline, INK, font(30))
        pictures = len(self.parallel.outcomes)
        workers = len(self.workers)
        detail = (
            f"{pictures} pictures: {self.serial.seconds:.2f} s in one process, "
            f"{self.parallel.seconds:.2f} s in a pool of {workers}. "
            "Each box is one picture, drawn from its start to its end."
        )
        self.draw.text((left, 70 * FINE), detail, FADED, font(15))

    def axis(self, top: int, bottom: int) -> None:
        step = tick_step(self.span)
        tick = 0.0
        while tick <= self.span:
            x = self.x(tick)
            self.draw.line([(x, (top - 6) * FINE), (x, bottom * FINE)], PANEL, FINE)
            label = f"{tick:.10g} s"
            self.draw.text((x, (bottom + 10) * FINE), label, FADED, font(13), anchor="mt")
            tick = round(tick + step, 10)

    def row(self, top: int, name: str, remark: str, run: Run, outcomes: Sequence[Outcome]) -> None:
        middle = top + self.lane / 2
        left = self.MARGIN * FINE
        if self.lane >= 44:
            self.draw.text((left, (middle - 11) * FINE), name, INK, font(17), anchor="lm")
            self.draw.text((left, (middle + 11) * FINE), remark, FADED, font(13), anchor="lm")
        else:
            self.draw.text((left, middle * FINE), name, INK, font(14), anchor="lm")
        for outcome in outcomes:
            self.box(
                top, self.x(outcome.start - run.start), self.x(outcome.end - run.start), outcome
            )

    def box(self, top: int, left: float, right: float, outcome: Outcome) -> None:
        """One picture's time, filled with the picture itself."""
        # A hair of dark between neighbours keeps them apart; even the shortest stays visible.
        width = max(FINE, round(right - left) - FINE)
        height = self.lane * FINE
        if outcome.problem:
            face = Image.new("RGB", (width, height), (120, 38, 38))
        else:
            with Image.open(outcome.job.thumbnail) as file:
                face = ImageOps.fit(file.convert("RGB"), (width, height), Image.Resampling.BOX)
        name = outcome.job.source.stem
        if self.lane >= 60 and font(11).getlength(name) <= width - 10 * FINE:
            self.caption(face, name)
        mask = Image.new("L", face.size, 0)
        radius = min(5 * FINE, width // 4)
        shape = (0, 0, face.width - 1, face.height - 1)
        ImageDraw.Draw(mask).rounded_rectangle(shape, radius, 255)
        self.sheet.paste(face, (round(left), top * FINE), mask)

    def caption(self, face: Image.Image, text: str) -> None:
        """The name on a darkened strip at the foot of the box."""
        strip = 20 * FINE
        foot = (0, face.height - strip, face.width, face.height)
        shade = Image.new("RGB", (face.width, strip), (0, 0, 0))
        face.paste(Image.blend(face.crop(foot), shade, 0.62), foot)
        place = (face.width / 2, face.height - 7 * FINE)
        ImageDraw.Draw(face).text(place, text, INK, font(11), anchor="ms")

    def finish(self, top: int, bottom: int) -> None:
        """Where the pool was done, and how much earlier that is."""
        done = self.x(self.parallel.seconds)
        self.draw.line([(done, (top - 6) * FINE), (done, (bottom + 6) * FINE)], ACCENT, 2 * FINE)
        saved = self.serial.seconds - self.parallel.seconds
        room = self.x(self.span) - done
        text = f"done after {self.parallel.seconds:.2f} s, {saved:.2f} s earlier"
        if saved > 0 and font(16).getlength(text) + 20 * FINE < room:
            place = (done + 14 * FINE, (top + bottom) / 2 * FINE)
            self.draw.text(place, text, ACCENT, font(16), anchor="lm")


def tick_step(span: float) -> float:
    """A round distance that gives between five and twelve ticks."""
    power = 10.0 ** math.floor(math.log10(span))
    for factor in (0.1, 0.2, 0.5, 1, 2):
        if span / (factor * power) <= 12:
            return factor * power
    return power


def timeline(serial: Run, parallel: Run, target: Path) -> None:
    """Write the picture of who did what when."""
    Timeline(serial, parallel).render(target)
