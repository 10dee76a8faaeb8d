"""Output, input and log records of a process whose threads are busy with them when it forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The streams of the interpreter have to have buffers.
ENVIRONMENT = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}

BUSY = """
import logging, os, sys, threading, warnings
import sidestep

warnings.simplefilter("ignore")
logging.basicConfig(stream=sys.stderr, level="INFO")
stop = threading.Event()

def chatter():
    while not stop.is_set():
        print("x" * 3000)
        logging.info("y" * 100)

def work():
    print("from the child")
    logging.info("from the child")

if __name__ == "__main__":
    threads = [threading.Thread(target=chatter) for _ in range(3)]
    for thread in threads:
        thread.start()
    ctx = sidestep.get_context("fork")
    for _ in range(int(sys.argv[1])):
        child = ctx.Process(target=work)
        child.start()
        child.join()
        assert child.exitcode == 0, child.exitcode
        child.close()
    stop.set()
    for thread in threads:
        thread.join()
"""


def test_children_forked_in_the_middle_of_output_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BUSY)
    with open(os.devnull, "w") as nowhere:
        done = subprocess.run(
            [sys.executable, str(script), "60"],
            stdout=nowhere,
            stderr=nowhere,
            env=ENVIRONMENT,
            timeout=100,
        )
    assert done.returncode == 0


# A thread that holds the lock of a stream at the fork, for certain: it waits in the system, for
# room in a pipe or for input.
BLOCKED = """
import array, fcntl, io, logging, os, sys, termios, threading, warnings
import sidestep
from sidestep import util

warnings.simplefilter("ignore")
reader, writer = os.pipe()
what = sys.argv[1]
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"-" * 65536)
except BlockingIOError:
    pass
try:
    while True:
        os.write(writer, b"-")
except BlockingIOError:
    pass
os.set_blocking(writer, True)
blocked = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w")))
if what == "stdout":
    sys.stdout = blocked
elif what == "logging":
    logging.basicConfig(stream=blocked)
elif what == "stdin":
    empty, _ = os.pipe()
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(empty)))

def use():
    if what == "stdin":
        sys.stdin.readline()
    else:
        blocked.write("x" * 20000)
        blocked.flush()

def work():
    if what == "stdout":
        print("from the child")
    elif what == "logging":
        logging.error("from the child")

def waits(thread):
    # In read or write, by their numbers on x86-64 and aarch64.
    with open(f"/proc/self/task/{thread.native_id}/syscall") as call:
        return call.read().split()[0] in ("0", "1", "63", "64")

def drain():
    while os.read(reader, 65536):
        pass

if __name__ == "__main__":
    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    while not waits(thread):
        pass
    parent, flush = os.getpid(), util._flush_std_streams
    # The parent's own would wait for the thread, as it should.
    util._flush_std_streams = lambda: os.getpid() == parent or flush()
    child = sidestep.get_context("fork").Process(target=work)
    child.start()
    threading.Thread(target=drain, daemon=True).start()
    child.join()
    os.write(2, b"ended %d" % child.exitcode)
    os._exit(0)
"""


@pytest.mark.parametrize("what", ["stdout", "logging", "stdin"])
def test_a_child_does_not_wait_for_its_parents_thread(what: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BLOCKED)
    done = subprocess.run(
        [sys.executable, str(script), what],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "ended 0")
