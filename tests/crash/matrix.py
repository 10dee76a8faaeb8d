"""Processes die at every point of the engine that a script passes, and others work on.

    scripts/matrix python3 [--sample N] [--seed N] [--method M] [--script S] [--point P]

For each start method and each script (one for each kind of thing that processes share): a first
child runs the script and tells which points it has passed. Then one child after the other runs it
and is killed (SIGKILL, by itself) at one of these points, the first time and the last time that it
comes there. After each, a survivor, the same process all along, works with the very same things,
finds what was committed once and whole, and brings them back to where they were. In the end no
process, descriptor, name or memory is left.

It needs a module that was built with crash points; `tests/crash/test_matrix.py` and `make matrix`
see to that. The table at the end has a line for each script and a column for each start method:
points, children killed, and how many of them led to something bad.
"""

import argparse
import collections
import gc
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import sidestep
import sidestep.connection
from sidestep import _sidestep
from sidestep.pool import WorkerLostError
from sidestep.shared_memory import SharedMemory
from sidestep.synchronize import AbandonedLockError

METHODS = ("fork", "spawn", "forkserver")

# Nothing takes that long unless it hangs.
PATIENCE_S = 30.0

# In the environment of every process of a run, so that those that are left can be found.
MARK = "SIDESTEP_MATRIX"

# In the environment of a process that is to die before it can be told to; see crash.rs.
AT_START = "SIDESTEP_CRASH_AT"
# What the names of its points begin with here.
STARTING = "starting: "

crash_at: Callable[[str, int], None] = _sidestep.crash_at  # type: ignore[attr-defined]
crash_passed: Callable[[], list[tuple[str, int]]] = _sidestep.crash_passed  # type: ignore[attr-defined]


# --- scripts ---------------------------------------------------------------------------------
#
# Each makes things, has something done to them by whoever is to die, and has the survivor work
# with them, who is told whether the other one died or got through. The survivor leaves them as
# they were made.


class Script(NamedTuple):
    make: Callable[[Any], Any]
    act: Callable[[Any], None]
    check: Callable[[Any, bool], None]
    end: Callable[[Any], None] = lambda things: None


def make_item(who: str, number: int, size: int) -> tuple[Any, ...]:
    """An item that tells whether it is whole; every third one carries a lock."""
    body = bytes([number & 0xFF]) * size
    handle = sidestep.Semaphore(number) if number % 3 == 2 else None
    return who, number, body, zlib.crc32(body), handle


def number_of(item: tuple[Any, ...]) -> tuple[str, int]:
    who, number, body, checksum, handle = item
    assert zlib.crc32(body) == checksum, "torn"
    assert handle is None or handle.get_value() == number
    return who, number


SIZES = (10, 100_000, 300)


def acquire(lock: Any, died: bool) -> None:
    """As a program does it that knows how to make the guarded data whole again."""
    try:
        assert lock.acquire(timeout=PATIENCE_S)
    except AbandonedLockError:
        assert died, "abandoned by nobody"
        lock.recover()
        assert lock.acquire(timeout=PATIENCE_S)


def use_lock(lock: Any) -> None:
    with lock:
        assert not lock.acquire(timeout=0.001)
    assert lock.acquire(False)
    lock.release()


def check_lock(lock: Any, died: bool) -> None:
    acquire(lock, died)
    lock.release()


def use_rlock(lock: Any) -> None:
    with lock, lock, lock:
        pass


def use_semaphore(semaphore: Any) -> None:
    with semaphore, semaphore:
        assert not semaphore.acquire(timeout=0.001)


def check_semaphore(semaphore: Any, died: bool) -> None:
    missing = 2 - semaphore.get_value()
    assert 0 <= missing <= (2 if died else 0)
    assert semaphore.lost() <= missing
    semaphore.recover()
    while semaphore.get_value() < 2:
        semaphore.release()
    with semaphore, semaphore:
        assert not semaphore.acquire(False)


def make_condition(ctx: Any) -> Any:
    lock = ctx.RLock()
    return ctx.Condition(lock), lock


def use_condition(things: Any) -> None:
    condition, _ = things
    with condition:
        condition.notify()
        condition.wait(0.001)
        condition.notify_all()


def check_condition(things: Any, died: bool) -> None:
    condition, lock = things

    def wait() -> None:
        with condition:
            waiting.set()
            passed.append(condition.wait(PATIENCE_S))

    acquire(lock, died)
    lock.release()
    waiting, passed = threading.Event(), list[bool]()
    waiter = threading.Thread(target=wait)
    waiter.start()
    waiting.wait()
    with condition:
        condition.notify()
    waiter.join()
    assert passed == [True]


def use_event(event: Any) -> None:
    event.set()
    assert event.wait(0)
    event.clear()
    event.wait(0.001)


def check_event(event: Any, died: bool) -> None:
    event.clear()
    setter = threading.Thread(target=event.set)
    setter.start()
    assert event.wait(PATIENCE_S)
    setter.join()
    event.clear()
    assert not event.is_set()


def use_barrier(barrier: Any) -> None:
    try:
        barrier.wait(0.001)
    except threading.BrokenBarrierError:
        barrier.reset()
    barrier.abort()
    barrier.reset()


def check_barrier(barrier: Any, died: bool) -> None:
    barrier.reset()
    other = threading.Thread(target=barrier.wait, args=(PATIENCE_S,))
    other.start()
    barrier.wait(PATIENCE_S)
    other.join()
    assert not barrier.broken


def use_queue(queue: Any) -> None:
    """Take two of the three items that are there, and put three."""
    for number in range(2):
        assert number_of(queue.get()) == ("before", number)
        if hasattr(queue, "task_done"):
            queue.task_done()
    for number, size in enumerate(SIZES):
        queue.put(make_item("victim", number, size))


def fill_queue(queue: Any) -> None:
    for number, size in enumerate(SIZES):
        queue.put(make_item("before", number, size))


def make_queue(queue: Any) -> Any:
    fill_queue(queue)
    return queue


def check_found(found: list[tuple[str, int]], died: bool) -> None:
    """Of what was there the last ones, of what the victim sent the first ones, in order."""
    before = [number for who, number in found if who == "before"]
    after = [number for who, number in found if who == "victim"]
    assert found == [("before", n) for n in before] + [("victim", n) for n in after]
    assert before == list(range(3 - len(before), 3)) and after == list(range(len(after)))
    # Who puts has taken before.
    assert not after or len(before) == 1
    assert died or (before, after) == ([2], [0, 1, 2])


def check_queue(queue: Any, died: bool) -> None:
    queue.put(make_item("survivor", 0, 10))
    found = []
    while (item := number_of(queue.get())) != ("survivor", 0):
        found.append(item)
    assert queue.empty()
    check_found(found, died)
    if hasattr(queue, "task_done"):
        for _ in range(len(found) + 1):
            queue.task_done()
        # The victim may have taken one or two and not reported them.
        for _ in range(2 if died else 0):
            try:
                queue.task_done()
            except ValueError:
                break
        queue.join()
    fill_queue(queue)


def make_pipe(ctx: Any, duplex: bool) -> Any:
    reader, writer = ctx.Pipe(duplex)
    fill_pipe((reader, writer))
    return reader, writer


def fill_pipe(ends: Any) -> None:
    for number, size in enumerate(SIZES):
        ends[1].send(make_item("before", number, size))


def use_pipe(ends: Any) -> None:
    reader, writer = ends
    for number in range(2):
        assert number_of(reader.recv()) == ("before", number)
    for number, size in enumerate(SIZES):
        writer.send(make_item("victim", number, size))


def use_duplex_pipe(ends: Any) -> None:
    use_pipe(ends)
    ends[0].send(make_item("back", 0, 100))
    assert number_of(ends[1].recv()) == ("back", 0)
    # Asking for the number makes the descriptor tell exactly what is there.
    ends[1].fileno()
    assert not ends[1].poll(0.001)


def check_pipe(ends: Any, died: bool) -> None:
    reader, writer = ends
    assert sidestep.connection.wait([reader], 0) or not reader.poll(0)
    found = []
    while reader.poll(0):
        found.append(number_of(reader.recv()))
    check_found(found, died)
    for number in range(3):
        sender = threading.Thread(target=writer.send, args=(make_item("survivor", number, 10),))
        sender.start()
        assert sidestep.connection.wait([reader], PATIENCE_S) == [reader]
        assert number_of(reader.recv()) == ("survivor", number)
        sender.join()
    assert not reader.poll(0)
    fill_pipe(ends)


def check_duplex_pipe(ends: Any, died: bool) -> None:
    reader, writer = ends
    while writer.poll(0):
        assert died and number_of(writer.recv()) == ("back", 0)
    check_pipe(ends, died)
    reader.send("back")
    assert writer.recv() == "back"


def use_value(value: Any) -> None:
    for _ in range(3):
        with value.get_lock():
            value.value += 1


def check_value(value: Any, died: bool) -> None:
    acquire(value.get_lock(), died)
    assert value.value == 3 or (died and 0 <= value.value <= 3)
    value.value = 0
    value.get_lock().release()


def use_array(array: Any) -> None:
    with array.get_lock():
        array[:] = [7] * len(array)


def check_array(array: Any, died: bool) -> None:
    acquire(array.get_lock(), died)
    assert set(array[:]) == {7} or died
    array[:] = [0] * len(array)
    array.get_lock().release()


# Stays where it was made: only its proxies travel.
managers: list[Any] = []


def make_table(ctx: Any) -> Any:
    managers.append(ctx.Manager())
    return managers[-1].dict(before=1)


def use_table(table: Any) -> None:
    for number in range(3):
        table["victim"] = number
    assert table["before"] == 1


def check_table(table: Any, died: bool) -> None:
    assert table["before"] == 1
    assert table.pop("victim", None) in ((None, 0, 1, 2) if died else (2,))
    assert len(table) == 1


def end_manager(table: Any) -> None:
    managers.pop().shutdown()


def make_shared_memory(ctx: Any) -> Any:
    return SharedMemory(create=True, size=10_000)


def use_shared_memory(memory: Any) -> None:
    again = SharedMemory(memory.name)
    memory.buf[:1000] = b"v" * 1000
    assert again.buf[999] == ord("v")
    again.close()


def check_shared_memory(memory: Any, died: bool) -> None:
    again = SharedMemory(memory.name)
    assert set(again.buf[:1000]) <= {0, ord("v")}
    again.buf[:1000] = bytes(1000)
    again.close()


def end_shared_memory(memory: Any) -> None:
    memory.close()
    memory.unlink()


def make_nothing(ctx: Any) -> Any:
    return ctx.get_start_method()


def nothing() -> None:
    pass


def start_child(method: str) -> None:
    child = sidestep.get_context(method).Process(target=nothing)
    child.start()
    child.join()
    child.close()


def check_start(method: str, died: bool) -> None:
    child = sidestep.get_context(method).Process(target=nothing)
    child.start()
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    child.close()


def own_a_pool(method: str) -> None:
    # The workers are not to die: a fork has armed them, too.
    with sidestep.get_context(method).Pool(2, arm, ("", 0)) as pool:
        assert pool.map(abs, range(-3, 3)) == [3, 2, 1, 0, 1, 2]


def check_pool_works(method: str, died: bool) -> None:
    with sidestep.get_context(method).Pool(1) as pool:
        assert pool.apply_async(abs, (-1,)).get(PATIENCE_S) == 1


SCRIPTS: dict[str, Script] = {
    "Lock": Script(lambda ctx: ctx.Lock(), use_lock, check_lock),
    "RLock": Script(lambda ctx: ctx.RLock(), use_rlock, check_lock),
    "Semaphore": Script(lambda ctx: ctx.Semaphore(2), use_semaphore, check_semaphore),
    "BoundedSemaphore": Script(lambda ctx: ctx.BoundedSemaphore(2), use_semaphore, check_semaphore),
    "Condition": Script(make_condition, use_condition, check_condition),
    "Event": Script(lambda ctx: ctx.Event(), use_event, check_event),
    "Barrier": Script(lambda ctx: ctx.Barrier(2), use_barrier, check_barrier),
    "Queue": Script(lambda ctx: make_queue(ctx.Queue()), use_queue, check_queue),
    "JoinableQueue": Script(lambda ctx: make_queue(ctx.JoinableQueue()), use_queue, check_queue),
    "SimpleQueue": Script(lambda ctx: make_queue(ctx.SimpleQueue()), use_queue, check_queue),
    "Pipe": Script(lambda ctx: make_pipe(ctx, False), use_pipe, check_pipe),
    "Pipe, duplex": Script(lambda ctx: make_pipe(ctx, True), use_duplex_pipe, check_duplex_pipe),
    "Value": Script(lambda ctx: ctx.Value("i", 0), use_value, check_value),
    "Array": Script(lambda ctx: ctx.Array("i", 100), use_array, check_array),
    "Manager": Script(make_table, use_table, check_table, end_manager),
    "SharedMemory": Script(
        make_shared_memory, use_shared_memory, check_shared_memory, end_shared_memory
    ),
    "start of a child": Script(make_nothing, start_child, check_start),
    "owner of a Pool": Script(make_nothing, own_a_pool, check_pool_works),
}
# Whoever dies there is a worker, and who works on is the process that owns the pool.
WORKER = "worker of a Pool"


# --- the two processes -----------------------------------------------------------------------


def die(name: str, things: Any, point: str, nth: int, report: str) -> None:
    """The victim: run the script, armed. With a report, tell there what was passed."""
    at_start = crash_passed()
    crash_at(point, nth)
    SCRIPTS[name].act(things)
    if report:
        Path(report).write_text(json.dumps([at_start, crash_passed()]))


def survive(name: str, things: Any, address: str) -> None:
    """The survivor: check whenever it is told to, and say what was wrong, if anything."""
    crash_at("", 0)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        while told := line.recv(1):
            try:
                SCRIPTS[name].check(things, told == b"d")
            except BaseException:
                line.sendall(traceback.format_exc().encode() + b"\0")
            else:
                line.sendall(b"\0")


class Bad(Exception):
    """Something that must not be; the rest of the cell is not run."""


class Survivor:
    """A survivor and the line to it, which is none of the package's."""

    def __init__(self, ctx: Any, name: str, things: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/line")
            listener.listen()
            listener.settimeout(PATIENCE_S)
            self.process = ctx.Process(target=survive, args=(name, things, f"{folder}/line"))
            self.process.start()
            self.line, _ = listener.accept()
        self.line.settimeout(PATIENCE_S)

    def check(self, died: bool) -> None:
        self.line.sendall(b"d" if died else b"l")
        answer = b""
        while not answer.endswith(b"\0"):
            try:
                more = self.line.recv(65536)
            except TimeoutError:
                raise Bad("the survivor hangs") from None
            if not more:
                raise Bad("the survivor has ended")
            answer += more
        if answer != b"\0":
            raise Bad("the survivor: " + answer[:-1].decode())

    def end(self) -> None:
        self.line.close()
        self.process.join(PATIENCE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


# --- what is left ----------------------------------------------------------------------------


def marked_processes() -> set[int]:
    """All processes of this run, this one aside."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found - {os.getpid()}


def holdings() -> dict[str, Any]:
    """What could be left: memory, processes, descriptors, names."""
    gc.collect()
    _sidestep.reaped()
    usage = _sidestep.usage() or dict.fromkeys(("used", "warm", "blocks", "processes"), 0)
    return {
        "bytes of the arena": usage["used"] - usage["warm"],
        "blocks": usage["blocks"],
        "members of the family": usage["processes"],
        "processes": len(marked_processes()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "names in /dev/shm": len([n for n in os.listdir("/dev/shm") if n.startswith("psm_")]),
    }


MEMORY = ("bytes of the arena", "blocks")


def await_holdings(wanted: dict[str, Any], memory: bool = True) -> None:
    """Wait until no more is held than before, as some of it may be ending just now.

    Memory tells something only when the things that were shared are gone as well: a queue, for
    one, keeps a segment, whose size depends on what it has carried.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        now = holdings()
        if not memory:
            now = {what: count for what, count in now.items() if what not in MEMORY}
        left = {what: (wanted[what], count) for what, count in now.items() if count > wanted[what]}
        if not left:
            return
        if time.monotonic() > deadline:
            raise Bad(f"left behind (before, now): {left}")
        time.sleep(0.02)


# --- cells: a script with a start method -----------------------------------------------------

# Which of the points that were passed, and how often each, are tried.
Choice = Callable[[list[tuple[str, int]]], list[tuple[str, int]]]


class Cell(NamedTuple):
    method: str
    name: str


class Result:
    def __init__(self) -> None:
        self.points = 0
        self.killed = 0
        self.bad: list[str] = []


def wait_for_end(process: Any) -> None:
    if not sidestep.connection.wait([process.sentinel], PATIENCE_S):
        process.kill()
        process.join()
        raise Bad("the victim hangs")


def passed_by(ctx: Any, name: str, things: Any) -> list[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        report = f"{folder}/report"
        process = ctx.Process(target=die, args=(name, things, "", 0, report))
        process.start()
        wait_for_end(process)
        process.join()
        if process.exitcode != 0:
            raise Bad(f"the script itself fails: {process.exitcode}")
        process.close()
        at_start, passed = json.loads(Path(report).read_text())
    # A process that was forked has its parent's counts, and cannot be armed before.
    early = at_start if ctx.get_start_method() == "spawn" else []
    # The last one of all comes after the report.
    return [
        *((STARTING + point, times) for point, times in early),
        *((point, times) for point, times in passed),
        ("slot: leaving in order", 1),
    ]


def run_cell(cell: Cell, choose: Choice, result: Result) -> None:
    """Everything that is to be tried with one script and one start method."""
    ctx = sidestep.get_context(cell.method)
    script = SCRIPTS[cell.name]
    things = script.make(ctx)
    survivor = Survivor(ctx, cell.name, things)
    try:
        passed = passed_by(ctx, cell.name, things)
        survivor.check(False)
        result.points = len(passed)
        before = holdings()
        for turn, (point, nth) in enumerate(choose(passed)):
            try:
                starting = point.startswith(STARTING)
                if starting:
                    os.environ[AT_START] = f"{point.removeprefix(STARTING)}#{nth}"
                arms = ("", 0) if starting else (point, nth)
                victim = ctx.Process(target=die, args=(cell.name, things, *arms, ""))
                victim.start()
                os.environ.pop(AT_START, None)
                wait_for_end(victim)
                # Half of the time the survivor comes before anybody has reaped the dead.
                reaped_first = turn % 2 == 0
                if reaped_first:
                    victim.join()
                # A child of the victim, which a fork has armed as well, may have died in its place.
                survivor.check(True)
                victim.join()
                if victim.exitcode not in (0, -signal.SIGKILL):
                    raise Bad(f"the victim ended with {victim.exitcode}")
                result.killed += victim.exitcode != 0
                victim.close()
                await_holdings(before, memory=False)
            except Bad as bad:
                raise Bad(f"{point} #{nth}: {bad}") from None
    finally:
        survivor.end()
        script.end(things)


def work(number: int, body: bytes) -> tuple[int, bytes, int]:
    answer = body[::-1] + bytes([number & 0xFF]) * 10
    return number, answer, zlib.crc32(answer)


def arm(point: str, nth: int) -> None:
    crash_at(point, nth)


def run_worker_cell(cell: Cell, choose: Choice, result: Result) -> None:
    """As `run_cell`, for a worker: armed by a task, it dies in that or one of those that follow."""
    with sidestep.get_context(cell.method).Pool(1) as pool:

        def run(point: str, nth: int) -> int:
            pending: list[Any] = [pool.apply_async(arm, (point, nth))]
            for number, size in enumerate(SIZES):
                pending.append(pool.apply_async(work, (number, bytes([number]) * size)))
            lost = 0
            for number, each in enumerate(pending):
                try:
                    answer = each.get(PATIENCE_S)
                except WorkerLostError as error:
                    assert error.exitcode == -signal.SIGKILL
                    lost += 1
                except sidestep.TimeoutError:
                    raise Bad("the pool hangs") from None
                else:
                    if number > 0:
                        back, body, checksum = answer
                        if back != number - 1 or zlib.crc32(body) != checksum:
                            raise Bad("a torn or wrong result")
            return lost

        run("", 0)
        passed = pool.apply(crash_passed)
        result.points = len(passed)
        before = holdings()
        for point, nth in choose(passed):
            try:
                worker = pool._pool[0].pid
                lost = run(point, nth)
                # The pool goes on, with another worker; unless this is where the first one dies.
                try:
                    pool.apply_async(arm, ("", 0)).get(PATIENCE_S)
                except WorkerLostError:
                    lost += 1
                if lost > 1:
                    raise Bad(f"{lost} tasks were lost to one death")
                if pool.apply_async(abs, (-1,)).get(PATIENCE_S) != 1:
                    raise Bad("a wrong result")
                result.killed += pool._pool[0].pid != worker
                await_holdings(before, memory=False)
            except Bad as bad:
                raise Bad(f"{point} #{nth}: {bad}") from None


def run_one(cell: Cell, choose: Choice) -> Result:
    """Run a cell, after a round of it without deaths that brings everything to its usual size."""
    result = Result()
    run = run_worker_cell if cell.name == WORKER else run_cell
    try:
        run(cell, lambda passed: [], Result())
        before = holdings()
        run(cell, choose, result)
        await_holdings(before)
    except Bad as bad:
        result.bad.append(f"{cell.name}, {cell.method}: {bad}")
    except Exception:
        result.bad.append(f"{cell.name}, {cell.method}: {traceback.format_exc()}")
    return result


def table(results: dict[Cell, Result]) -> str:
    lines = [f"{'':18}" + "".join(f"{method:>26}" for method in METHODS)]
    lines.append(f"{'':18}" + f"{'points  killed  bad':>26}" * len(METHODS))
    for name in [*SCRIPTS, WORKER]:
        columns = []
        for method in METHODS:
            result = results.get(Cell(method, name))
            columns.append(
                f"{'-':>26}"
                if result is None
                else f"{result.points:>13}{result.killed:>8}{len(result.bad):>5}"
            )
        lines.append(f"{name:18}" + "".join(columns))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sample", type=int, help="so many deaths for each script, and one start method"
    )
    parser.add_argument("--seed", type=int, default=1, help="which ones --sample picks")
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--script", choices=[*SCRIPTS, WORKER])
    parser.add_argument("--point", help="only points whose name contains this")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    os.environ[MARK] = str(os.getpid())

    def choose(passed: list[tuple[str, int]]) -> list[tuple[str, int]]:
        wanted = [each for each in passed if (options.point or "") in each[0]]
        all_of_them = [
            (point, nth) for point, times in wanted for nth in sorted({1, times}) if times
        ]
        if options.sample is None:
            return all_of_them
        return chance.sample(all_of_them, min(options.sample, len(all_of_them)))

    results: dict[Cell, Result] = {}
    started = time.monotonic()
    for turn, name in enumerate([*SCRIPTS, WORKER]):
        if options.script not in (None, name):
            continue
        methods: tuple[str, ...] = METHODS
        if options.method is not None:
            methods = (options.method,)
        elif options.sample is not None:
            methods = (METHODS[(turn + options.seed) % len(METHODS)],)
        for method in methods:
            cell = Cell(method, name)
            began = time.monotonic()
            results[cell] = result = run_one(cell, choose)
            took = time.monotonic() - began
            print(f"{name:18} {method:11} {result.killed:4} killed, {took:5.1f} s", flush=True)
            for bad in result.bad:
                print(bad, flush=True)
    print(table(results))
    counts = collections.Counter()  # type: collections.Counter[str]
    for result in results.values():
        counts.update(killed=result.killed, bad=len(result.bad))
    seconds = time.monotonic() - started
    print(f"{counts['killed']} killed, {counts['bad']} bad, {seconds:.0f} s, seed {options.seed}")
    return 1 if counts["bad"] or not counts["killed"] else 0


if __name__ == "__main__":
    sys.exit(main())
