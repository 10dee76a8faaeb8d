"""Locks and their kin: who may go on, who waits, and what becomes of them when one is killed."""

import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep import context, synchronize
from sidestep.synchronize import AbandonedLockError

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import actors

Engage = Callable[..., actors.Actor]


@pytest.fixture(params=actors.METHODS)
def ctx(request: pytest.FixtureRequest) -> context.BaseContext:
    return sidestep.get_context(str(request.param))


@pytest.fixture
def engage() -> Iterator[Engage]:
    with actors.stage() as engage:
        yield engage


@pytest.fixture
def fork() -> context.BaseContext:
    return sidestep.get_context("fork")


def in_thread(work: Callable[[], Any]) -> Any:
    """Do it in another thread of this process; its result or exception."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((True, work()))
        except BaseException as error:
            box.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    done, value = box[0]
    if not done:
        raise value
    return value


def until(fact: Callable[[], Any]) -> None:
    """Wait for a fact about another process. The test's own time limit is the watchdog."""
    while not fact():
        time.sleep(0.001)


# --- Lock -----------------------------------------------------------------------------------


def test_a_lock_is_taken_once() -> None:
    lock = sidestep.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(block=False) is False
    assert lock.acquire(True, 0.01) is False
    assert lock.acquire(timeout=0) is False
    lock.release()
    assert lock.acquire(False) is True
    lock.release()


def test_a_lock_as_context_manager() -> None:
    lock = sidestep.Lock()
    with lock as entered:
        assert entered is True
        assert not lock.acquire(False)
    with pytest.raises(LookupError), lock:
        raise LookupError
    assert lock.acquire(False)
    lock.release()


def test_a_lock_excludes_other_processes(ctx: context.BaseContext) -> None:
    lock, value = ctx.Lock(), ctx.Value("i", 0, lock=False)
    children = [ctx.Process(target=actors.add_under, args=(lock, value, 2000)) for _ in "abc"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert value.value == 6000


def test_any_process_or_thread_may_release_a_lock(ctx: context.BaseContext, engage: Engage) -> None:
    lock, other = ctx.Lock(), engage(ctx)
    lock.acquire()
    assert other.do("acquire", lock, timeout=0.01) is False
    other.do("release", lock)
    assert other.do("acquire", lock) is True
    in_thread(lock.release)
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("timeout", [-1, -0.5, 0, 0.0])
def test_a_timeout_that_is_over_means_now(timeout: float) -> None:
    for taken in (sidestep.Lock(), sidestep.Semaphore(1)):
        assert taken.acquire(True, timeout) is True
        assert taken.acquire(True, timeout) is False
    event = sidestep.Event()
    assert event.wait(timeout) is False
    condition = sidestep.Condition()
    with condition:
        assert condition.wait(timeout) is False
        assert condition.wait_for(lambda: 0, timeout) == 0


def test_release_of_a_lock_not_held_raises() -> None:
    with pytest.raises(ValueError, match="released too many times"):
        sidestep.Lock().release()
    lock = sidestep.Lock()
    with lock:
        pass
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()


@pytest.mark.parametrize("timeout", ["1", [], object()])
def test_a_timeout_that_is_no_number_raises(timeout: Any) -> None:
    condition = sidestep.Condition()
    with condition:
        for call in (
            sidestep.Lock().acquire,
            sidestep.RLock().acquire,
            sidestep.Semaphore().acquire,
        ):
            with pytest.raises(TypeError):
                call(True, timeout)
        for wait in (condition.wait, sidestep.Event().wait, sidestep.Barrier(2).wait):
            with pytest.raises(TypeError):
                wait(timeout)


def test_a_signal_interrupts_a_blocked_acquire() -> None:
    lock = sidestep.Lock()
    lock.acquire()
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    timer.join()
    lock.release()
    assert lock.acquire(False)
    lock.release()


# --- RLock ----------------------------------------------------------------------------------


def test_an_rlock_is_taken_again_by_its_owner(ctx: context.BaseContext, engage: Engage) -> None:
    lock, other = ctx.RLock(), engage(ctx)
    for _ in range(3):
        assert lock.acquire()
    for _ in range(3):
        assert other.do("acquire", lock, False) is False
        assert in_thread(lambda: lock.acquire(False)) is False
        lock.release()
    assert other.do("acquire", lock) is True


def test_only_the_owner_releases_an_rlock(ctx: context.BaseContext, engage: Engage) -> None:
    lock, other = ctx.RLock(), engage(ctx)
    with pytest.raises(AssertionError, match="does not hold"):
        lock.release()
    with lock:
        with pytest.raises(AssertionError, match="does not hold"):
            in_thread(lock.release)
        with pytest.raises(AssertionError, match="does not hold"):
            other.do("release", lock)
    with pytest.raises(AssertionError, match="does not hold"):
        lock.release()


# --- Semaphore ------------------------------------------------------------------------------


def test_a_semaphore_gives_as_many_permits_as_it_has() -> None:
    semaphore = sidestep.Semaphore(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire() and semaphore.acquire(False)
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(False)
    assert not semaphore.acquire(timeout=0.01)
    semaphore.release()
    semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 3
    with semaphore:
        assert semaphore.get_value() == 2


def test_a_semaphore_wakes_as_many_as_it_can(ctx: context.BaseContext, engage: Engage) -> None:
    semaphore = ctx.Semaphore(0)
    others = [engage(ctx) for _ in range(3)]
    for other in others:
        other.ask("acquire", semaphore)
    for _ in others:
        semaphore.release()
    assert [other.answer() for other in others] == [True] * 3
    assert semaphore.get_value() == 0


def test_a_bounded_semaphore_is_not_released_too_often() -> None:
    semaphore = sidestep.BoundedSemaphore(2)
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 2


@pytest.mark.parametrize("value", [-1, 2**31])
def test_a_semaphore_has_limits(value: int) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        sidestep.Semaphore(value)


def test_a_semaphore_at_its_limit() -> None:
    semaphore = sidestep.Semaphore(synchronize.SEM_VALUE_MAX)
    with pytest.raises(ValueError, match="at its limit"):
        semaphore.release()


# --- Condition ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [None, "Lock", "RLock"])
def test_notify_wakes_a_waiter(ctx: context.BaseContext, engage: Engage, make: str | None) -> None:
    condition = ctx.Condition(getattr(ctx, make)() if make else None)
    other = engage(ctx)
    other.ask(actors.wait_under, condition)
    until(lambda: condition._waiting()[0] == 1)
    actors.notify(condition, 1)
    assert other.answer() is True


def test_notify_wakes_as_many_as_asked_the_earliest_first(engage: Engage, fork: Any) -> None:
    condition = fork.Condition()
    others = [engage(fork) for _ in range(4)]
    for count, other in enumerate(others, 1):
        other.ask(actors.wait_under, condition)
        until(lambda: condition._waiting() == (count, 0))
    actors.notify(condition, 2)
    assert others[0].answer() and others[1].answer()
    assert condition._waiting() == (2, 0)
    actors.notify(condition, 100)
    assert others[2].answer() and others[3].answer()
    actors.notify(condition, 1)  # nobody is there to hear it


def test_notify_all_wakes_many_threads_and_processes(engage: Engage, fork: Any) -> None:
    condition = fork.Condition()
    others = [engage(fork) for _ in range(3)]
    for other in others:
        other.ask(actors.wait_under, condition)
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda: woken.append(actors.wait_under(condition)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    until(lambda: condition._waiting()[0] == 23)
    actors.notify(condition)
    for thread in threads:
        thread.join()
    assert woken == [True] * 20
    assert [other.answer() for other in others] == [True] * 3


def test_wait_times_out_and_holds_the_lock_again() -> None:
    condition = sidestep.Condition()
    with condition:
        started = time.monotonic()
        assert condition.wait(0.03) is False
        assert time.monotonic() - started >= 0.03
        assert in_thread(lambda: condition.acquire(False)) is False
    assert condition._waiting() == (0, 0)


def test_wait_lets_go_of_every_level_of_an_rlock(engage: Engage, fork: Any) -> None:
    condition, other = fork.Condition(), engage(fork)
    with condition, condition, condition:
        other.ask(actors.notify, condition, 1)
        assert condition.wait() is True
        assert in_thread(lambda: condition.acquire(False)) is False
    other.answer()
    assert in_thread(lambda: condition.acquire(False)) is True


@pytest.mark.parametrize("call", ["wait", "notify", "notify_all"])
def test_a_condition_wants_its_lock_held(call: str) -> None:
    condition = sidestep.Condition()
    with pytest.raises(AssertionError, match="lock to be held"):
        getattr(condition, call)()


def test_wait_for_waits_until_the_predicate_is_true(
    ctx: context.BaseContext, engage: Engage
) -> None:
    condition, values, other = ctx.Condition(), ctx.Array("i", 1, lock=False), engage(ctx)
    other.ask(actors.wait_for_item, condition, values)
    until(lambda: condition._waiting()[0] == 1)
    actors.notify(condition)  # not yet true
    with condition:
        values[0] = 7
        condition.notify()
    assert other.answer() == 7


def test_wait_for_returns_the_last_value_of_the_predicate() -> None:
    condition = sidestep.Condition()
    with condition:
        assert condition.wait_for(lambda: "yes") == "yes"
        started = time.monotonic()
        assert condition.wait_for(lambda: "", 0.03) == ""
        assert time.monotonic() - started >= 0.03


def test_a_killed_waiter_does_not_swallow_a_notification(engage: Engage, fork: Any) -> None:
    condition = fork.Condition()
    first, second = engage(fork), engage(fork)
    for count, other in enumerate((first, second), 1):
        other.ask(actors.wait_under, condition)
        until(lambda: condition._waiting()[0] == count)
    first.kill()
    actors.notify(condition, 1)
    assert second.answer() is True


def test_a_signal_interrupts_a_wait_and_the_lock_is_held_again() -> None:
    condition = sidestep.Condition()
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
    with pytest.raises(KeyboardInterrupt), condition:
        timer.start()
        condition.wait()
    timer.join()
    assert in_thread(lambda: condition.acquire(False)) is True
    assert condition._waiting() == (0, 0)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_condition_takes_no_semaphore(fork: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"^a Condition cannot use a {kind}: .*Lock or an RLock$"):
        fork.Condition(getattr(fork, kind)())


# --- Event ----------------------------------------------------------------------------------


def test_an_event_is_set_and_cleared() -> None:
    event = sidestep.Event()
    assert not event.is_set()
    assert event.wait(0.01) is False
    event.set()
    event.set()
    assert event.is_set() and event.wait() is True and event.wait(0) is True
    event.clear()
    assert not event.is_set() and event.wait(0) is False


def test_an_event_wakes_all_who_wait(ctx: context.BaseContext, engage: Engage) -> None:
    event = ctx.Event()
    others = [engage(ctx) for _ in range(3)]
    for other in others:
        other.ask("wait", event)
    event.set()
    assert [other.answer() for other in others] == [True] * 3
    others[0].do("clear", event)
    assert not event.is_set()


def test_a_pulse_while_a_wait_serves_a_signal_ends_it() -> None:
    event, done = sidestep.Event(), threading.Event()

    def pulse(*_: object) -> None:
        # The wait has let go of the event for this moment.
        event.set()
        event.clear()

    def send() -> None:
        while not done.wait(0.01):
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, pulse)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert event.wait(30) is True
    finally:
        done.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


# --- Barrier --------------------------------------------------------------------------------


def test_a_barrier_lets_all_go_when_all_have_come(ctx: context.BaseContext, engage: Engage) -> None:
    barrier = ctx.Barrier(3)
    others = [engage(ctx), engage(ctx)]
    for _ in range(3):
        for other in others:
            other.ask("wait", barrier)
        numbers = [barrier.wait(), *(other.answer() for other in others)]
        assert sorted(numbers) == [0, 1, 2]
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_one_party_runs_the_action(ctx: context.BaseContext, engage: Engage) -> None:
    acted = ctx.Queue()
    barrier, other = ctx.Barrier(2, actors.Rendezvous(acted)), engage(ctx)
    other.ask("wait", barrier)
    barrier.wait()
    other.answer()
    acted.get()
    assert acted.empty()


def test_many_rounds_with_threads() -> None:
    rounds, parties = 50, 5
    count = [0]

    def act() -> None:
        count[0] += 1

    barrier = sidestep.Barrier(parties, act)

    def run() -> None:
        for number in range(rounds):
            assert count[0] == number
            barrier.wait()

    threads = [threading.Thread(target=run) for _ in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count[0] == rounds and not barrier.broken


def test_abort_breaks_the_barrier_until_reset(ctx: context.BaseContext, engage: Engage) -> None:
    barrier, other = ctx.Barrier(2), engage(ctx)
    other.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        other.answer()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    other.ask("wait", barrier)
    barrier.wait()
    other.answer()


def test_reset_sends_those_who_wait_away(engage: Engage, fork: Any) -> None:
    barrier, other = fork.Barrier(2), engage(fork)
    other.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    barrier.reset()
    with pytest.raises(threading.BrokenBarrierError):
        other.answer()
    assert not barrier.broken and barrier.n_waiting == 0


def test_a_barriers_timeout_breaks_it() -> None:
    for barrier, timeout in ((sidestep.Barrier(2), 0.02), (sidestep.Barrier(2, None, 0.02), None)):
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(timeout)
        assert barrier.broken


def test_a_failing_action_breaks_the_barrier(engage: Engage, fork: Any) -> None:
    barrier, other = fork.Barrier(2, actors.fail), engage(fork)
    other.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    with pytest.raises(LookupError, match="the action failed"):
        barrier.wait()
    with pytest.raises(threading.BrokenBarrierError):
        other.answer()
    assert barrier.broken


@pytest.mark.parametrize("fails", [False, True])
def test_an_action_that_a_reset_overtakes_leaves_the_next_round_alone(
    engage: Engage, fork: Any, fails: bool
) -> None:
    started, go = fork.Event(), fork.Event()
    barrier = fork.Barrier(2, actors.Held(started, go, fails))
    waiter, actor, other = engage(fork), engage(fork), engage(fork)
    waiter.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    actor.ask("wait", barrier)
    started.wait()
    barrier.reset()
    with pytest.raises(threading.BrokenBarrierError):
        waiter.answer()
    waiter.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    go.set()
    with pytest.raises(LookupError if fails else threading.BrokenBarrierError):
        actor.answer()
    assert (barrier.n_waiting, barrier.broken) == (1, False)
    # The new round takes as many as any other.
    other.ask("wait", barrier)
    if fails:
        with pytest.raises(LookupError):
            other.answer()
    else:
        assert (waiter.answer(), other.answer()) == (0, 1)


def test_an_action_that_an_abort_overtakes_lets_nobody_pass(engage: Engage, fork: Any) -> None:
    started, go = fork.Event(), fork.Event()
    barrier = fork.Barrier(2, actors.Held(started, go))
    waiter, actor = engage(fork), engage(fork)
    waiter.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    actor.ask("wait", barrier)
    started.wait()
    barrier.abort()
    go.set()
    for other in (waiter, actor):
        with pytest.raises(threading.BrokenBarrierError):
            other.answer()
    assert barrier.broken


def test_who_waits_out_of_time_while_the_action_runs_goes_on() -> None:
    timeout, acted = 0.05, False
    while not acted:
        # If this machine is so slow that the time is up before all are here, with more of it.
        timeout *= 2

        def act() -> None:
            nonlocal acted
            acted = True
            time.sleep(2 * timeout)  # noqa: B023

        barrier = sidestep.Barrier(2, act)
        numbers: list[int] = []

        def come() -> None:
            with suppress(threading.BrokenBarrierError):
                numbers.append(barrier.wait(timeout))  # noqa: B023

        other = threading.Thread(target=come)
        other.start()
        until(lambda: barrier.n_waiting or barrier.broken)  # noqa: B023
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
        other.join()
    assert numbers == [0] and not barrier.broken


def test_who_comes_out_of_time_while_the_action_runs_breaks_nothing(
    engage: Engage, fork: Any
) -> None:
    started, go = fork.Event(), fork.Event()
    barrier = fork.Barrier(2, actors.Held(started, go))
    others = [engage(fork), engage(fork)]
    for other in others:
        other.ask("wait", barrier)
    started.wait()
    timer = threading.Timer(0.05, go.set)
    timer.start()
    # Its own round begins when the action is done, and nobody else comes to that.
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.001)
    timer.join()
    assert sorted(other.answer() for other in others) == [0, 1]
    assert barrier.broken


def test_who_is_interrupted_while_the_action_runs_holds_up_nobody(
    engage: Engage, fork: Any
) -> None:
    started, go = fork.Event(), fork.Event()
    barrier, actor = fork.Barrier(2, actors.Held(started, go)), engage(fork)

    def interrupt() -> None:
        until(lambda: barrier.n_waiting == 1)
        actor.ask("wait", barrier)
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        barrier.wait()
    thread.join()
    assert not barrier.broken
    go.set()
    assert actor.answer() == 1


def test_an_exception_right_after_the_last_arrival_holds_up_nobody(
    engage: Engage, fork: Any
) -> None:
    barrier, other = fork.Barrier(2), engage(fork)

    def interrupt(_frame: object, event: str, what: Any) -> None:
        # Where a signal's handler may run, too.
        if event == "c_return" and what.__name__ == "_arrive":
            raise KeyboardInterrupt

    other.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            barrier.wait()
    finally:
        sys.setprofile(None)
    assert other.answer() == 0


@pytest.mark.parametrize("parties", [0, -1, 100_000])
def test_a_barrier_wants_a_number_of_parties(parties: int) -> None:
    with pytest.raises(ValueError, match="parties"):
        sidestep.Barrier(parties)


def test_a_process_killed_in_a_barrier_breaks_it(ctx: context.BaseContext, engage: Engage) -> None:
    barrier, waiter, victim = ctx.Barrier(3), engage(ctx), engage(ctx)
    for other in (waiter, victim):
        other.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 2)
    victim.kill()
    with pytest.raises(threading.BrokenBarrierError):
        waiter.answer()
    assert barrier.broken


def test_who_comes_last_to_a_barrier_sees_that_another_was_killed(
    engage: Engage, fork: Any
) -> None:
    barrier, victim = fork.Barrier(2), engage(fork)
    victim.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    os.kill(victim.pid, signal.SIGKILL)
    # Ended, and neither reaped nor cleaned up after.
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    victim.kill()


def test_a_process_killed_in_the_action_breaks_the_barrier(engage: Engage, fork: Any) -> None:
    started = fork.Event()
    barrier = fork.Barrier(2, actors.Stuck(started))
    waiter, victim = engage(fork), engage(fork)
    waiter.ask("wait", barrier)
    until(lambda: barrier.n_waiting == 1)
    victim.ask("wait", barrier)
    started.wait()
    victim.kill()
    with pytest.raises(threading.BrokenBarrierError):
        waiter.answer()


# --- owners that are killed, and owners that leave -------------------------------------------


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_killed_owner_abandons_its_lock(
    ctx: context.BaseContext, engage: Engage, kind: str
) -> None:
    lock, owner, waiter = getattr(ctx, kind)(), engage(ctx), engage(ctx)
    owner.do("acquire", lock)
    waiter.ask(actors.enter, lock)
    owner.kill()
    sentence = rf"process {owner.pid} was killed by SIGKILL while it held the lock 0x.*recover\(\)"
    with pytest.raises(AbandonedLockError, match=sentence) as caught:
        waiter.answer()
    # In the other process, and through a pipe.
    assert (caught.value.pid, caught.value.exitcode) == (owner.pid, -signal.SIGKILL)
    # Everybody is told until somebody has looked after it.
    for acquire in (lambda: lock.acquire(False), lambda: lock.acquire(timeout=1), lock.__enter__):
        with pytest.raises(AbandonedLockError):
            acquire()
    assert lock.recover() is True
    assert lock.recover() is False
    assert waiter.do(actors.enter, lock) is True
    assert lock.acquire(False)
    assert lock.recover() is False
    lock.release()


def test_an_abandoned_lock_may_be_released_by_anybody(engage: Engage, fork: Any) -> None:
    lock, owner = fork.Lock(), engage(fork)
    owner.do("acquire", lock)
    owner.kill()
    with pytest.raises(AbandonedLockError):
        lock.acquire()
    lock.release()
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_killed_owner_that_had_dropped_the_handle_abandons_the_lock(
    engage: Engage, fork: Any, kind: str
) -> None:
    lock, owner = getattr(fork, kind)(), engage(fork, keep=False)
    owner.do("acquire", lock)
    owner.do(gc.collect)
    owner.kill()
    with pytest.raises(AbandonedLockError):
        lock.acquire(timeout=60)


def test_a_killed_owner_of_a_conditions_lock(engage: Engage, fork: Any) -> None:
    condition, owner, waiter = fork.Condition(), engage(fork), engage(fork)
    waiter.ask(actors.wait_under, condition)
    until(lambda: condition._waiting()[0] == 1)
    owner.do("acquire", condition)
    owner.do("notify", condition)
    owner.kill()
    with pytest.raises(AbandonedLockError):
        waiter.answer()
    assert condition.recover()
    with condition:
        pass


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_block_that_ends_by_the_error_leaves_the_lock_to_its_new_owner(
    engage: Engage, fork: Any, kind: str
) -> None:
    lock = getattr(fork, kind)()
    condition, owner, heir = fork.Condition(lock), engage(fork), engage(fork)

    def wake_and_die() -> None:
        owner.answer()
        owner.do("notify", condition)
        owner.kill()

    killer = threading.Thread(target=wake_and_die)
    with pytest.raises(AbandonedLockError), condition:
        # It gets the lock when we wait.
        owner.ask("acquire", condition)
        killer.start()
        try:
            condition.wait()
        finally:
            lock.recover()
            heir.do("acquire", lock)
    killer.join()
    assert lock.acquire(False) is False
    heir.do("release", lock)


def test_an_orderly_end_leaves_a_lock_held(ctx: context.BaseContext, engage: Engage) -> None:
    lock, other = ctx.Lock(), engage(ctx)
    child = ctx.Process(target=actors.take_and_end, args=(lock,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.02) is False
    assert other.do("acquire", lock, timeout=0.02) is False
    assert lock.recover() is False
    other.do("release", lock)
    assert lock.acquire(False)
    lock.release()


def test_an_orderly_end_abandons_an_rlock(ctx: context.BaseContext) -> None:
    lock = ctx.RLock()
    child = ctx.Process(target=actors.take_and_end, args=(lock,))
    child.start()
    child.join()
    with pytest.raises(AbandonedLockError):
        lock.acquire()
    assert lock.recover()
    with lock:
        pass


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition"])
def test_any_process_may_release_an_abandoned_lock(engage: Engage, fork: Any, kind: str) -> None:
    lock, owner, other = getattr(fork, kind)(), engage(fork), engage(fork)
    owner.do("acquire", lock)
    owner.kill()
    with pytest.raises(AbandonedLockError):
        lock.acquire()
    other.do("release", lock)
    assert lock.acquire(False)
    lock.release()
    assert lock.recover() is False


def test_permits_of_a_killed_process_are_not_given_back(engage: Engage, fork: Any) -> None:
    semaphore, other = fork.Semaphore(2), engage(fork)
    other.do("acquire", semaphore)
    other.kill()
    assert semaphore.get_value() == 1


def test_permits_of_killed_processes_are_counted_and_can_be_recovered(
    engage: Engage, fork: Any
) -> None:
    semaphore = fork.BoundedSemaphore(3)
    for times in (2, 1):
        other = engage(fork)
        for _ in range(times):
            other.do("acquire", semaphore)
        other.kill()
    assert repr(semaphore) == "<BoundedSemaphore(value=0, maxvalue=3, lost=3)>"
    assert semaphore.lost() == 3
    assert not semaphore.acquire(block=False)
    waiter = engage(fork)
    waiter.ask("acquire", semaphore)
    assert semaphore.recover() == 3
    assert waiter.answer() is True
    assert (semaphore.lost(), semaphore.recover(), semaphore.get_value()) == (0, 0, 2)


def test_permits_that_were_released_in_time_are_not_lost(engage: Engage, fork: Any) -> None:
    semaphore, other = fork.Semaphore(1), engage(fork)
    other.do("acquire", semaphore)
    other.do("release", semaphore)
    other.kill()
    assert (semaphore.lost(), semaphore.get_value()) == (0, 1)


def test_permits_of_a_signal_are_not_lost(engage: Engage, fork: Any) -> None:
    """Acquired by one, released by another: what was acquired is used up, not held."""
    semaphore, other = fork.Semaphore(0), engage(fork)
    for _ in range(5):
        semaphore.release()
        other.do("acquire", semaphore)
    other.kill()
    assert (semaphore.lost(), semaphore.recover(), semaphore.get_value()) == (0, 0, 0)


def test_a_killed_waiter_does_not_disturb_a_lock(engage: Engage, fork: Any) -> None:
    lock, victim, survivor = fork.Lock(), engage(fork), engage(fork)
    lock.acquire()
    victim.ask("acquire", lock)
    survivor.ask("acquire", lock)
    victim.kill()
    lock.release()
    assert survivor.answer() is True


# --- appearance and subclasses ---------------------------------------------------------------


def test_a_locks_repr_names_the_owner(engage: Engage, fork: Any) -> None:
    lock, other = fork.Lock(), engage(fork)
    assert repr(lock) == "<Lock(owner=None)>"
    with lock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        assert in_thread(lambda: repr(lock)) == "<Lock(owner=SomeOtherThread)>"
        assert other.do(repr, lock) == "<Lock(owner=SomeOtherProcess)>"


def test_an_rlocks_repr_names_the_owner_and_the_depth(engage: Engage, fork: Any) -> None:
    lock, other = fork.RLock(), engage(fork)
    assert repr(lock) == "<RLock(None, 0)>"
    with lock, lock:
        assert repr(lock) == "<RLock(MainProcess, 2)>"
        assert in_thread(lambda: repr(lock)) == "<RLock(SomeOtherThread, nonzero)>"
        assert other.do(repr, lock) == "<RLock(SomeOtherProcess, nonzero)>"


def test_reprs_say_what_state_things_are_in() -> None:
    assert repr(sidestep.Semaphore(3)) == "<Semaphore(value=3)>"
    bounded = sidestep.BoundedSemaphore(3)
    bounded.acquire()
    assert repr(bounded) == "<BoundedSemaphore(value=2, maxvalue=3)>"
    assert repr(sidestep.Condition()) == "<Condition(<RLock(None, 0)>, 0)>"
    event = sidestep.Event()
    assert re.fullmatch("<Event at 0x[0-9a-f]+ unset>", repr(event))
    event.set()
    assert repr(event).endswith(" set>")
    barrier = sidestep.Barrier(4)
    assert re.fullmatch("<Barrier at 0x[0-9a-f]+: waiters=0/4>", repr(barrier))
    barrier.abort()
    assert repr(barrier).endswith(": broken>")


class NamedLock(synchronize.Lock):
    """A subclass with a signature of its own."""

    def __init__(self, name: str, *tags: str, colour: str = "red") -> None:
        super().__init__()
        self.name, self.tags, self.colour = name, tags, colour


class NamedCondition(synchronize.Condition):
    def __init__(self, name: str) -> None:
        super().__init__(synchronize.Lock())
        self.name = name


class NamedBarrier(synchronize.Barrier):
    def __init__(self, name: str) -> None:
        super().__init__(2)
        self.name = name


class NamedEvent(synchronize.Event):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class NamedSemaphore(synchronize.BoundedSemaphore):
    def __init__(self, name: str) -> None:
        super().__init__(5)
        self.name = name


def describe(*shared: Any) -> list[Any]:
    return [(type(one).__name__, one.name) for one in shared]


def test_subclasses_have_their_own_signature_and_travel(engage: Engage, fork: Any) -> None:
    lock = NamedLock("a", "b", "c", colour="blue")
    others: list[Any] = [
        NamedCondition("x"),
        NamedBarrier("y"),
        NamedEvent("z"),
        NamedSemaphore("s"),
    ]
    actor = engage(fork)
    assert actor.do(describe, lock, *others) == [
        ("NamedLock", "a"),
        ("NamedCondition", "x"),
        ("NamedBarrier", "y"),
        ("NamedEvent", "z"),
        ("NamedSemaphore", "s"),
    ]
    assert actor.do(getattr, lock, "tags") == ("b", "c")
    actor.do("acquire", lock)
    assert not lock.acquire(False)
    actor.do("set", others[2])
    assert others[2].is_set()
