"""The process that tracks resources has bugs of its own: it stays, it blocks, it can be killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory

import facts


def role_use_locks() -> None:
    context = multiprocessing.get_context("spawn")
    locks = [context.Lock(), context.RLock()]
    with locks[0]:
        print(*facts.children(os.getpid()), flush=True)


def face_locks_need_no_helper() -> None:
    """A program that has locks and queues for all start methods starts no process for them."""
    done = facts.run("role_use_locks")
    assert done.stdout.split() == [], "started a process to look after two locks"


def role_raw_fork() -> None:
    block = SharedMemory(create=True, size=10)
    block.close()
    block.unlink()
    if os.fork() == 0:
        os.close(1)
        input()
        os._exit(0)


def face_end_beside_a_raw_fork() -> None:
    """A program ends while a child lives that it has made by a bare `os.fork`."""
    with subprocess.Popen(
        facts.command("role_raw_fork"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.wait() == 0
        assert program.stdin is not None
        program.stdin.write(b"\n")


def role_clean_user() -> None:
    block = SharedMemory(create=True, size=10)
    block.close()
    block.unlink()


def face_helper_is_buried() -> None:
    """A program that used shared memory leaves no child to whoever adopts orphans."""
    facts.adopt()
    with subprocess.Popen(facts.command("role_clean_user")) as program:
        assert program.wait() == 0
    try:
        orphan, _ = os.waitpid(-1, 0)
    except ChildProcessError:
        return
    raise AssertionError(f"process {orphan} was left to init")


def role_leave_a_name() -> None:
    block = SharedMemory(create=True, size=10)
    print(block.name, flush=True)
    input()


def role_make_another() -> None:
    role_clean_user()


def face_helper_is_killed_with_the_family() -> None:
    """Everything is killed in one instant; the next program sweeps what is left."""
    facts.adopt()
    with subprocess.Popen(
        facts.command("role_leave_a_name"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        name = program.stdout.readline().strip()
        family = [*facts.children(program.pid), program.pid]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        program.wait()
    facts.all_gone()
    try:
        assert facts.run("role_make_another").returncode == 0
        assert not os.path.exists(f"/dev/shm/{name}"), f"/dev/shm/{name} stays for ever"
    finally:
        if os.path.exists(f"/dev/shm/{name}"):
            os.unlink(f"/dev/shm/{name}")


def face_helper_is_killed_alone() -> None:
    """The program goes on when its helper was killed, and still leaves nothing."""
    done = facts.run("role_go_on")
    assert done.returncode == 0, done.stderr
    left = [name for name in done.stdout.split() if os.path.exists(f"/dev/shm/{name}")]
    for name in left:
        os.unlink(f"/dev/shm/{name}")
    assert not left, left


def role_go_on() -> None:
    """Leave two blocks to the helper, one of which was made before it was killed."""
    first = SharedMemory(create=True, size=10)
    for helper in facts.children(os.getpid()):
        os.kill(helper, signal.SIGKILL)
        facts.gone(helper)
    second = SharedMemory(create=True, size=10)
    print(first.name, second.name, flush=True)
    first.close()
    second.close()
    sys.exit()


if __name__ == "__main__":
    facts.choose(globals())
