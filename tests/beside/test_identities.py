"""Beside the standard library: other libraries recognise our objects as the original's."""

import inspect
import multiprocessing
import multiprocessing.connection
import multiprocessing.managers
import multiprocessing.pool
import multiprocessing.queues
import multiprocessing.reduction
import multiprocessing.shared_memory
import multiprocessing.sharedctypes
import multiprocessing.spawn
import multiprocessing.synchronize
import multiprocessing.util
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sidestep
import sidestep.connection
import sidestep.context
import sidestep.managers
import sidestep.pool
import sidestep.queues
import sidestep.reduction
import sidestep.shared_memory
import sidestep.sharedctypes
import sidestep.synchronize
import sidestep.util
from sidestep import _original

# Children are given our sys.path, and so find the module by its name.
sys.path.insert(0, str(Path(__file__).parent))

import beside_children as children

METHODS = ("fork", "spawn", "forkserver")


def python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    ).stdout


def test_the_package_is_beside_the_original() -> None:
    assert multiprocessing is not sidestep
    assert _original.loaded("process") is multiprocessing.process


def test_objects_are_instances_of_the_originals_classes() -> None:
    for method in METHODS:
        ctx: Any = sidestep.get_context(method)
        theirs: Any = multiprocessing.get_context(method)
        assert isinstance(ctx, multiprocessing.context.BaseContext)
        assert isinstance(ctx, type(theirs))
        assert isinstance(ctx.Process(), theirs.Process)
        for name in ("Queue", "JoinableQueue", "SimpleQueue"):
            assert isinstance(getattr(ctx, name)(), getattr(multiprocessing.queues, name))
        for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"):
            assert isinstance(getattr(ctx, name)(), getattr(multiprocessing.synchronize, name))
        assert isinstance(ctx.Barrier(1), multiprocessing.synchronize.Barrier)
        assert isinstance(ctx.Value("i"), multiprocessing.sharedctypes.Synchronized)
        assert isinstance(ctx.Array("i", 1), multiprocessing.sharedctypes.SynchronizedArray)
    for end in sidestep.Pipe():
        with end:
            assert isinstance(end, multiprocessing.connection.Connection)
    assert issubclass(sidestep.pool.Pool, multiprocessing.pool.Pool)
    assert issubclass(sidestep.pool.ThreadPool, multiprocessing.pool.ThreadPool)
    assert issubclass(sidestep.managers.SyncManager, multiprocessing.managers.SyncManager)
    assert issubclass(sidestep.managers.DictProxy, multiprocessing.managers.DictProxy)


def test_errors_and_registries_are_the_originals() -> None:
    ours: Any = sidestep
    theirs: Any = multiprocessing
    for name in ("ProcessError", "TimeoutError", "BufferTooShort", "AuthenticationError"):
        assert getattr(ours, name) is getattr(theirs, name)
    assert ours.reduction.ForkingPickler is theirs.reduction.ForkingPickler
    assert ours.current_process() is theirs.current_process()
    assert ours.util._finalizer_registry is theirs.util._finalizer_registry
    assert issubclass(ours.pool.MaybeEncodingError, theirs.pool.MaybeEncodingError)


def test_descent_comes_with_the_first_import_of_the_original() -> None:
    out = python("""
        import sys, sidestep.queues, sidestep.pool
        print("multiprocessing.queues" in sys.modules, "multiprocessing.pool" in sys.modules)
        queue = sidestep.queues.Queue()
        import multiprocessing.queues
        print(isinstance(queue, multiprocessing.queues.Queue))
        queue.put(1)
        print(queue.get())
    """)
    assert out.split() == ["False", "False", "True", "1"]


def test_the_original_takes_what_was_here_before_it() -> None:
    out = python("""
        import os, sys
        import sidestep, sidestep.connection, sidestep.reduction, sidestep.util
        print("multiprocessing" in sys.modules)
        process = sidestep.current_process()
        process.name = "Prime"
        key = process.authkey
        class Thing: pass
        sidestep.reduction.register(Thing, lambda thing: (str, ("a thing",)))
        import multiprocessing.connection, multiprocessing.util
        theirs = multiprocessing
        print(theirs.current_process() is process, theirs.current_process().authkey == key)
        print(sidestep.current_process() is process, sidestep.process._children == set())
        print(isinstance(process, theirs.process.BaseProcess))
        for name in ("ProcessError", "TimeoutError", "BufferTooShort", "AuthenticationError"):
            print(getattr(sidestep, name) is getattr(theirs, name))
            print(getattr(sidestep, name) is getattr(theirs.get_context("fork"), name))
        print(theirs.process.AuthenticationString is sidestep.process.AuthenticationString)
        pickler = theirs.reduction.ForkingPickler
        print(pickler is sidestep.reduction.ForkingPickler)
        print(pickler.loads(pickler.dumps(Thing())) == "a thing")
        print(sidestep.context._tls is theirs.context._tls)
        class Other: pass
        theirs.reduction.register(Other, lambda other: (str, ("another",)))
        print(pickler.loads(pickler.dumps(Other())) == "another")
        ends = sidestep.Pipe()
        ends[0].send(Other())
        print(ends[1].recv() == "another")
        r, w = os.pipe()
        child = theirs.get_context("fork").Process(target=os.read, args=(r, 1))
        child.start()
        print(child in sidestep.active_children())
        os.write(w, b"x")
        child.join()
    """)
    first, *others = out.split()
    assert first == "False"
    assert set(others) == {"True"}, out


@pytest.mark.parametrize("method", METHODS)
def test_log_records_name_a_child_though_nobody_imports_the_original(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import logging
            import sidestep

            logging.basicConfig(format="%(processName)s")

            def say():
                logging.warning("here")

            if __name__ == "__main__":
                child = sidestep.get_context({method!r}).Process(target=say, name="Kid")
                child.start()
                child.join()
                sidestep.current_process().name = "Prime"
                logging.warning("here")
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["Kid", "Prime"]


def test_each_package_has_its_own_start_method() -> None:
    out = python("""
        import multiprocessing, sidestep
        multiprocessing.set_start_method("spawn")
        sidestep.set_start_method("forkserver")
        print(multiprocessing.get_start_method(), sidestep.get_start_method())
    """)
    assert out.split() == ["spawn", "forkserver"]


def test_nothing_public_is_inherited() -> None:
    inherited = set()
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("sidestep."):
            continue
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module_name:
                continue
            for name in dir(cls):
                owner = next(base for base in cls.__mro__ if name in vars(base))
                if owner.__module__.startswith("multiprocessing"):
                    inherited.add(f"{cls.__name__}.{name}")
    public = {
        name
        for name in inherited
        # One underscore: inner workings that nothing here calls.
        if not name.partition(".")[2].startswith("_") or "__" in name
    }
    # Locks of ours are pickled by __reduce__, which comes first; a class in brackets is only that.
    harmless = (
        "__builtins__",
        "__class_getitem__",
        "__getstate__",
        "__setstate__",
        "__weakref__",
        "slice__",
    )
    assert sorted(name for name in public if not name.endswith(harmless)) == []


@pytest.mark.parametrize("method", METHODS)
def test_everybody_knows_a_childs_name(method: str) -> None:
    ctx: Any = sidestep.get_context(method)
    queue, go = ctx.Queue(), ctx.Event()
    child = ctx.Process(target=children.names, args=(queue, go), name="worker of mine")
    child.start()
    assert child in multiprocessing.active_children()
    go.set()
    *found, same, parent, childless = queue.get()
    child.join()
    assert found == ["worker of mine"] * 3
    assert same
    assert parent == sidestep.current_process().pid
    assert childless
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("method", METHODS)
def test_the_originals_objects_go_to_our_children(method: str) -> None:
    theirs: Any = multiprocessing.get_context(method)
    ours: Any = sidestep.get_context(method)
    # The memory is ours: the original keeps a descriptor open for its own.
    lock, value = theirs.Lock(), sidestep.Value("i", 0, lock=False)
    workers = [ours.Process(target=children.add, args=(lock, value, 100)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert value.value == 200


def test_our_objects_go_to_the_originals_forked_children() -> None:
    theirs: Any = multiprocessing.get_context("fork")
    lock, value = sidestep.Lock(), sidestep.Value("i", 0, lock=False)
    workers = [theirs.Process(target=children.add, args=(lock, value, 100)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert value.value == 200


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_our_objects_are_refused_to_the_originals_spawned_children(method: str) -> None:
    theirs: Any = multiprocessing.get_context(method)
    child = theirs.Process(target=print, args=(sidestep.Queue(),))
    with pytest.raises(RuntimeError, match=r"sidestep\.get_context"):
        child.start()


@pytest.mark.parametrize("package", [multiprocessing, sidestep])
@pytest.mark.parametrize("method", METHODS)
def test_a_child_finalizes_for_both(method: str, package: Any, tmp_path: Path) -> None:
    ctx = package.get_context(method)
    child = ctx.Process(target=children.finalize, args=(str(tmp_path),))
    child.start()
    child.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_runs_on_our_contexts(method: str) -> None:
    ctx: Any = sidestep.get_context(method)
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        found = list(executor.map(children.square, range(20)))
    assert [number for number, _ in found] == [number * number for number in range(20)]
    prefix = type(ctx.Process()).__name__
    assert {name.partition("-")[0] for _, name in found} == {prefix}


@pytest.mark.parametrize("method", METHODS)
def test_tools_wrap_our_children_as_the_originals(method: str) -> None:
    out = python(f"""
        import multiprocessing.process, multiprocessing.spawn
        import beside_children as children
        original = multiprocessing.spawn.get_preparation_data
        def get_preparation_data(name):
            stowaway = children.Stowaway()
            stowaway.note = "on board"
            return dict(original(name), stowaway=stowaway)
        multiprocessing.spawn.get_preparation_data = get_preparation_data
        children.wrap()
        import sidestep
        ctx = sidestep.get_context({method!r})
        queue = ctx.Queue()
        child = ctx.Process(target=children.say, args=(queue,))
        child.start()
        print(*queue.get())
        child.join()
        print(child.exitcode)
    """)
    stowaway = ["None"] if method == "fork" else ["on", "board"]
    assert out.split() == [*stowaway, "1", "0"]


def test_what_was_registered_before_the_original_came_is_registered_with_it() -> None:
    out = python("""
        import sidestep.util as ours
        class Thing: pass
        thing = Thing()
        ours.register_after_fork(thing, lambda thing: print("after the fork"))
        ours.Finalize(None, print, ("first",), exitpriority=5)
        early = ours.Finalize(thing, print, ("not this",))
        import multiprocessing.util as theirs
        print(early.still_active(), len(theirs._afterfork_registry))
        theirs.Finalize(None, print, ("second",), exitpriority=4)
        ours.Finalize(None, print, ("third",), exitpriority=3)
        early.cancel()
        theirs._run_after_forkers()
    """)
    assert out == "True 1\nafter the fork\nfirst\nsecond\nthird\n"
