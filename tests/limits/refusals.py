"""What a program sees when the kernel refuses a call: `python refusals.py SCENARIO`.

Needs the module that is built with the feature `failure-points`. For each call that the scenario
makes, the first time and the last time, and for each way in which the kernel may refuse it, a
process of its own runs the scenario with that one call refused: it gets an exception of the class
that says so, or goes on without, and then works as if nothing had been.
"""

import ast
import errno
import gc
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import sidestep
from sidestep import _sidestep
from sidestep.connection import Client, Listener
from sidestep.pool import WorkerLostError

module: Any = _sidestep

# How they may fail; those that are not here, with EMFILE, ENOMEM and EPERM.
USUAL = (errno.EMFILE, errno.ENOMEM, errno.EPERM)
REFUSALS: dict[str, tuple[int, ...]] = {
    "close": (errno.EIO,),
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "ftruncate": (errno.ENOSPC, errno.ENOMEM, errno.EINTR),
    "futex(FUTEX_WAIT)": (errno.EINTR, errno.EAGAIN),
    "futex(FUTEX_WAKE)": (errno.EFAULT,),
    "madvise(MADV_REMOVE)": (errno.EOPNOTSUPP,),
    "memfd_create": (*USUAL, errno.ENFILE, errno.ENOSYS),
    "pidfd_open": (errno.EMFILE, errno.ENFILE, errno.ENOSYS, errno.EPERM),
    "poll": (errno.EINTR, errno.ENOMEM),
    "read": (errno.EINTR, errno.EIO),
    "recvmsg": (errno.EINTR, errno.ENOMEM),
    "sendmsg": (errno.EINTR, errno.ENOBUFS),
    "waitpid": (errno.EINTR,),
    "waitid": (errno.EINTR,),
    "writev": (errno.EINTR, errno.EIO),
}
# A scenario that takes longer hangs.
PATIENCE_S = 60.0


def double(number: int) -> int:
    return 2 * number


def nothing() -> None:
    pass


def process() -> None:
    child = sidestep.get_context("fork").Process(target=nothing)
    child.start()
    child.join()
    assert child.exitcode == 0
    child.close()


def queue() -> None:
    queue: Any = sidestep.Queue()
    large = bytes(100_000)
    queue.put_many(["item", large])
    assert queue.get() == "item" and queue.get() == large


def watched() -> None:
    queue: Any = sidestep.Queue()
    number = queue._reader.fileno()
    queue._writer.fileno()
    queue.put("item")
    select.select([number], [], [], 0)
    assert queue.get() == "item"
    queue.close()


def pipe() -> None:
    one, other = sidestep.Pipe()
    with one, other:
        one.send("object")
        assert other.poll() and other.recv() == "object"
        other.send_bytes(bytes(100_000))
        assert len(one.recv_bytes()) == 100_000


def locks() -> None:
    with sidestep.Lock(), sidestep.RLock():
        pass
    value: Any = sidestep.Value("i", 1)
    array: Any = sidestep.Array("i", 1000)
    assert value.value + array[999] == 1
    assert not sidestep.Event().wait(0.001)


def pool() -> None:
    with sidestep.get_context("fork").Pool(1) as workers:
        assert workers.map(double, [1, 2]) == [2, 4]
        workers.close()
        workers.join()


def calls() -> None:
    """A listener and its client, in two threads; both have the same key."""
    trouble: list[BaseException] = []

    def visit(address: Any) -> None:
        # Once more after a refusal: who does not get through is dropped, and nobody accepted.
        for _ in range(2):
            try:
                with Client(address, authkey=b"key") as client:
                    client.send("hello")
                    client.recv()
                return
            except (OSError, EOFError, MemoryError) as error:
                trouble.append(error)

    with Listener(("localhost", 0), authkey=b"key") as listener:
        thread = threading.Thread(target=visit, args=(listener.address,))
        thread.start()
        try:
            with listener.accept() as connection:
                assert connection.recv() == "hello"
                connection.send("bye")
        finally:
            # So that nobody waits for an answer from here.
            listener.close()
            thread.join()
    # What the other side's refusal looks like from here is no refusal.
    refused = [error for error in trouble if not isinstance(error, (EOFError, ConnectionError))]
    if refused:
        raise refused[0]


def check(error: BaseException, name: str, number: int) -> None:
    """Complain unless the exception says what it should."""
    text = str(error)
    assert text, f"{type(error).__name__} without a word"
    if isinstance(error, WorkerLostError):
        # It was refused in every worker, since each is a fork that is told to fail.
        assert "cannot start" in text, text
        return
    if isinstance(error, OSError) and not isinstance(error, EOFError):
        assert error.errno == number, f"{error!r}"
    elif isinstance(error, MemoryError):
        assert number == errno.ENOMEM, f"{error!r}"
    else:
        raise AssertionError(f"not the class that one expects: {error!r}")
    if number == errno.EMFILE:
        assert "RLIMIT_NOFILE" in text and "ulimit" in text, text


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def case(scenario: Callable[[], None], name: str, which: int, number: int, calm: int) -> None:
    module.fail_call(name, which, which, number)
    try:
        scenario()
    except Exception as error:
        module.fail_call(name, 0, 0, 0)
        check(error, name, number)
    module.fail_call(name, 0, 0, 0)
    for _ in range(2):
        scenario()
    assert open_descriptors() == calm, "it leaves descriptors open"


def apart(work: Callable[[], None]) -> str:
    """Run `work` in a fork of this process, which has shared nothing yet: what went wrong."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(reader)
        try:
            work()
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        pidfd = os.pidfd_open(pid)
        ended = bool(select.select([pidfd], [], [], PATIENCE_S)[0])
        os.close(pidfd)
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
        text = told.read()
    return text if ended else "it hung"


def main(name: str) -> None:
    scenario: Callable[[], None] = globals()[name]
    reader, writer = os.pipe()

    def count() -> None:
        module.fail_call("fork", 0, 0, 0)
        scenario()
        made = module.calls_made()
        scenario()
        # Without the two ends of this pipe.
        os.write(writer, repr((made, open_descriptors() - 2)).encode())

    wrong = apart(count)
    assert not wrong, wrong
    os.close(writer)
    with os.fdopen(reader) as told:
        made, calm = ast.literal_eval(told.read())
    failures = []
    for call, times in made:
        for number in REFUSALS.get(call, USUAL):
            for which in sorted({1, times} - {0}):
                wrong = apart(lambda: case(scenario, call, which, number, calm))
                if wrong:
                    title = f"--- call {which} of {call}: {errno.errorcode[number]}"
                    failures.append(f"{title}\n{wrong}")
    assert not failures, "\n".join(failures)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
