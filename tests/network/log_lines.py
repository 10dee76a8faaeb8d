"""What the package logs during a test."""

import logging
from collections.abc import Iterator

import pytest

from sidestep import util


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Lines of the package's log."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = util.get_logger(), Collector()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(util.SUBWARNING)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)
