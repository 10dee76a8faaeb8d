"""What children log, handled by their parent; and output that other threads are busy with."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import log_relay

METHODS = ["fork", "spawn", "forkserver"]


class Collected(logging.Handler):
    """Keeps records, and where they were handled."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.pids: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.pids.add(os.getpid())

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture(params=METHODS)
def ctx(request: pytest.FixtureRequest) -> Any:
    return sidestep.get_context(request.param)


@pytest.fixture
def handler() -> Iterator[Collected]:
    """The handler of the logger "talk"."""
    logger = logging.getLogger("talk")
    collected = Collected()
    logger.addHandler(collected)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield collected
    logger.removeHandler(collected)
    assert collected.pids <= {os.getpid()}


def count(name: str, most: int) -> None:
    logger = logging.getLogger("talk.numbers")
    for number in range(most):
        logger.info("%s %d", name, number)
    logger.debug("nobody wants to know")


def test_records_of_children_come_once_and_in_order(ctx: Any, handler: Collected) -> None:
    with sidestep.relay_logging("talk") as relay:
        children = [ctx.Process(target=count, args=(name, 200), name=name) for name in "ab"]
        for child in children:
            child.start()
        for child in children:
            child.join()
        relay.flush()
        for child in children:
            mine = [record for record in handler.records if record.processName == child.name]
            assert [r.getMessage() for r in mine] == [f"{child.name} {n}" for n in range(200)]
            assert {record.process for record in mine} == {child.pid}
        assert len(handler.records) == 400
    for child in children:
        child.close()


class Awkward:
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")

    def __repr__(self) -> str:
        return "<awkward>"


def log_awkwardly() -> None:
    logger = logging.getLogger("talk")
    logger.warning("%r", Awkward(), extra={"thing": Awkward(), "data": {"a": [1, Awkward()]}})
    try:
        raise ValueError("of the child")
    except ValueError:
        logger.exception("it failed", stack_info=True)


def test_what_cannot_be_pickled_comes_as_text(ctx: Any, handler: Collected) -> None:
    with sidestep.relay_logging("talk"):
        child = ctx.Process(target=log_awkwardly)
        child.start()
        child.join()
        child.close()
    first, second = handler.records
    assert first.getMessage() == "<awkward>"
    assert vars(first)["thing"] == "<awkward>"
    assert vars(first)["data"] == {"a": [1, "<awkward>"]}
    text = logging.Formatter().format(second)
    assert "it failed\nTraceback" in text
    assert "log_awkwardly" in text
    assert "ValueError: of the child\nStack" in text


def log_and_die(how: str) -> None:
    logging.getLogger("talk").info("last words")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(0)


class Mute:
    def __repr__(self) -> str:
        raise ValueError("no words")


def log_what_cannot_be_told() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    logging.getLogger("talk").warning("hear me", extra={"mute": Mute(), "endless": endless})


def test_what_cannot_be_told_costs_no_record(ctx: Any, handler: Collected) -> None:
    with sidestep.relay_logging("talk"):
        child = ctx.Process(target=log_what_cannot_be_told)
        child.start()
        child.join()
        child.close()
    (record,) = handler.records
    assert vars(record)["mute"] == "<Mute whose repr fails>"
    assert vars(record)["endless"] == "[1, [...]]"


@pytest.mark.parametrize("how", ["return", "exit", "kill"])
def test_last_words_are_heard(ctx: Any, handler: Collected, how: str) -> None:
    with sidestep.relay_logging("talk"):
        child = ctx.Process(target=log_and_die, args=(how,))
        child.start()
        child.join()
        child.close()
    assert handler.texts() == ["last words"]


def have_a_child(method: str) -> None:
    logging.getLogger("talk").info("a child")
    child = sidestep.get_context(method).Process(target=count, args=("grandchild", 1))
    child.start()
    child.join()
    child.close()


def test_grandchildren_are_heard(ctx: Any, handler: Collected) -> None:
    with sidestep.relay_logging("talk"):
        child = ctx.Process(target=have_a_child, args=(ctx.get_start_method(),))
        child.start()
        child.join()
        child.close()
    assert handler.texts() == ["a child", "grandchild 0"]


def work(number: int) -> int:
    logging.getLogger("talk").info("task %d", number)
    return number


def test_workers_of_pools_are_heard(ctx: Any, handler: Collected) -> None:
    with sidestep.relay_logging("talk"):
        with ctx.Pool(2) as pool:
            assert pool.map(work, range(10), chunksize=1) == list(range(10))
            pool.close()
            pool.join()
    assert sorted(handler.texts()) == sorted(f"task {number}" for number in range(10))


def log_at_all_levels() -> None:
    for name in ("talk", "talk.quiet"):
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            logging.getLogger(name).log(level, "%s %d", name, level)


def test_levels_hold_in_children(ctx: Any, handler: Collected) -> None:
    logging.getLogger("talk.quiet").setLevel(logging.ERROR)
    try:
        with sidestep.relay_logging("talk", "DEBUG"):
            child = ctx.Process(target=log_at_all_levels)
            child.start()
            child.join()
            child.close()
    finally:
        logging.getLogger("talk.quiet").setLevel(logging.NOTSET)
    assert handler.texts() == ["talk 10", "talk 20", "talk 40", "talk.quiet 40"]


def test_a_handler_that_raises_does_not_stop_the_others(
    ctx: Any, handler: Collected, capsys: pytest.CaptureFixture[str]
) -> None:
    def choke(record: logging.LogRecord) -> bool:
        if record.getMessage() == "a 1":
            raise ValueError("cannot look at this one")
        return True

    handler.addFilter(choke)
    with sidestep.relay_logging("talk"):
        child = ctx.Process(target=count, args=("a", 3))
        child.start()
        child.join()
        child.close()
    assert handler.texts() == ["a 0", "a 2"]
    assert "cannot look at this one" in capsys.readouterr().err


def test_a_receiver_that_stands_still_costs_records_and_no_hang(
    handler: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_relay, "_MOST_WAITING", 3)
    monkeypatch.setattr(log_relay, "_PATIENCE_S", 0.0)
    with sidestep.relay_logging("talk") as relay:
        sender = log_relay._Handler(relay._queue)
        for number in range(5):
            sender.handle(logging.LogRecord("talk", 20, "f", 1, f"text {number}", None, None))
        relay.flush()
        sender.handle(logging.LogRecord("talk", 20, "f", 1, "after", None, None))
    assert handler.texts() == [
        "text 0",
        "text 1",
        "text 2",
        "2 log records of this process were lost: their receiver was too slow",
        "after",
    ]


def test_one_relay_at_a_time_and_none_when_closed(handler: Collected) -> None:
    relay = sidestep.relay_logging("talk")
    with pytest.raises(RuntimeError, match="already"):
        sidestep.relay_logging()
    assert threading.active_count() == 1  # nobody has been started
    relay.close()
    relay.close()
    relay.flush()
    with pytest.raises(ValueError, match="NOISY"):
        sidestep.relay_logging("talk", "NOISY")
    child = sidestep.get_context("fork").Process(target=count, args=("a", 1))
    child.start()
    child.join()
    child.close()
    assert handler.texts() == []


def test_the_thread_is_not_there_while_the_process_forks(handler: Collected) -> None:
    threads = []
    os.register_at_fork(before=lambda: threads.append(len(os.listdir("/proc/self/task"))))
    # The last that is registered comes first: it would see a thread that ends later.
    import importlib

    importlib.reload(log_relay)
    with log_relay.relay_logging("talk"):
        for _ in range(3):
            child = sidestep.get_context("fork").Process(target=count, args=("a", 1))
            child.start()
            child.join()
            child.close()
        assert threading.active_count() == 2
    assert threading.active_count() == 1
    assert threads == [1, 1, 1]


class Forks(logging.Handler):
    """Starts a process for the first record, as one might to send a mail."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if not self.done.is_set():
            child = sidestep.get_context("fork").Process(target=count, args=("mail", 1))
            child.start()
            child.join()
            child.close()
            self.done.set()


def receivers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "log-relay"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_handler_that_forks_finds_one_receiver(
    handler: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = Forks()

    class Eager(threading.Thread):
        """Has handled its first record before its starter goes on."""

        def start(self) -> None:
            super().start()
            assert forks.done.wait(60)

    logger = logging.getLogger("talk")
    logger.addHandler(forks)
    try:
        with log_relay.relay_logging("talk") as relay:
            monkeypatch.setattr(threading, "Thread", Eager)
            child = sidestep.get_context("spawn").Process(target=count, args=("a", 3))
            child.start()
            child.join()
            child.close()
            (receiver,) = receivers()
            assert relay._thread is receiver
        assert receivers() == []
        assert not log_relay._forking
    finally:
        logger.removeHandler(forks)
    assert sorted(handler.texts()) == ["a 0", "a 1", "a 2", "mail 0"]


def test_no_receiver_starts_while_a_thread_forks(handler: Collected) -> None:
    with log_relay.relay_logging("talk") as relay:
        log_relay._before_fork()
        relay._resume()
        assert receivers() == []
        log_relay._after_fork_in_parent()
        assert receivers() == [relay._thread]


def test_a_receiver_that_is_about_to_start_can_be_paused(
    handler: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(threading.Thread):
        """Is started, as far as anybody can see, when a signal handler forks."""

        def start(self) -> None:
            assert relay._thread is self
            assert relay._pause()
            assert relay._thread is None
            super().start()
            self.join()

    with log_relay.relay_logging("talk") as relay:
        monkeypatch.setattr(threading, "Thread", Late)
        relay._resume()
        assert receivers() == []


EXIT = """
import logging, sys, threading
import sidestep

def work(event):
    event.wait()
    for number in range(50):
        logging.getLogger("app").info("record %d", number)

if __name__ == "__main__":
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(processName)s %(message)s")
    sidestep.relay_logging()
    ctx = sidestep.get_context(sys.argv[1])
    event = ctx.Event()
    child = ctx.Process(target=work, args=(event,), name="child")
    child.start()
    event.set()
    # The exit of the program waits for the child, and for what it logs.
"""


def test_a_handler_that_wants_to_leave_does_not_end_the_receiving(
    handler: Collected, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(record: logging.LogRecord) -> bool:
        if record.getMessage() == "a 0":
            raise SystemExit("in vain")
        return True

    handler.addFilter(leave)
    ctx = sidestep.get_context("spawn")
    with sidestep.relay_logging("talk") as relay:
        child = ctx.Process(target=count, args=("a", 2))
        child.start()
        child.join()
        child.close()
        assert relay._thread is not None
        assert relay._thread.is_alive()
    assert handler.texts() == ["a 1"]
    assert "in vain" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_the_exit_of_a_program_waits_for_the_last_record(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(EXIT)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), method],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [f"child record {number}" for number in range(50)]
    assert (done.returncode, done.stderr) == (0, "")
