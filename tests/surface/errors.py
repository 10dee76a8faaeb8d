"""Uses a package in wrong ways and prints, as JSON, what each use raises: {use: class names}.

Run by itself, once per package: `python errors.py multiprocessing`. A use is the text of an
expression; what it needs is made for it, and `Pipe` and the like are the package's.
"""

import array
import ctypes
import importlib
import json
import pickle
import sys
import threading
from typing import Any

USES = {
    "processes": """
        Process(1)
        Process(bad=1)
        Process(target=print).join()
        Process(target=print).terminate()
        Process(target=print).kill()
        Process(target=print).sentinel
        Process(target=print).is_alive()
        Process(target=print, args=1)
        Process(target=print, kwargs=1)
        Process(target=print, name=3).name
        setattr(Process(), 'name', 3)
        setattr(Process(), 'authkey', 'text')
        setattr(started(), 'daemon', True)
        started().start()
        closed(started()).is_alive()
        closed(started()).exitcode
        running().close()
        running().join('x')
        pickle.dumps(Process())
        get_context('nothing')
        get_context(1)
        get_context('fork').set_start_method('fork')
        set_start_method('nothing')
        set_start_method('spawn')
        set_forkserver_preload([1])
        set_forkserver_preload('json')
        set_executable(1)
    """,
    "queues": """
        Queue('x')
        Queue(1.5)
        JoinableQueue('x')
        SimpleQueue(1)
        closed(Queue()).put(1)
        closed(Queue()).get()
        closed(SimpleQueue()).put(1)
        closed(SimpleQueue()).get()
        closed(SimpleQueue()).empty()
        full().put(1, False)
        full().put(1, timeout=0.01)
        full().put(1, timeout=-1)
        full().put(1, timeout='x')
        Queue().get(False)
        Queue().get(timeout=0.01)
        Queue().get(timeout=-1)
        Queue().get(timeout='x')
        Queue().get_nowait()
        Queue().join_thread()
        JoinableQueue().task_done()
        pickle.dumps(Queue())
        pickle.dumps(SimpleQueue())
        SimpleQueue().put(lambda: 1)
    """,
    "locks": """
        Lock().release()
        RLock().release()
        taken(Lock()).acquire('x', 'y')
        taken(Lock()).acquire(timeout='x')
        taken(Lock()).acquire(False)
        taken(Lock()).acquire(timeout=-1)
        taken(Lock()).acquire(True, -0.5)
        in_a_thread(taken(RLock()).release)
        Semaphore('x')
        Semaphore(-1)
        Semaphore(1.5)
        BoundedSemaphore(1).release()
        Semaphore(0).acquire(False)
        Semaphore(0).acquire(timeout=0.01)
        Condition().wait(0.01)
        Condition().notify()
        Condition().notify_all()
        Condition().release()
        Condition('x')
        taken(Condition()).notify(0)
        taken(Condition()).notify(-1)
        taken(Condition()).wait('x')
        taken(Condition()).wait_for(1)
        Event().wait('x')
        Event().wait(-1)
        Event().wait(float('nan'))
        Barrier('x')
        Barrier(2).wait(0.01)
        Barrier(2).wait('x')
        Barrier(2, timeout='x').wait()
        aborted(Barrier(2)).wait()
        Barrier(1, action=1).wait()
        pickle.dumps(Lock())
        pickle.dumps(RLock())
        pickle.dumps(Semaphore())
        pickle.dumps(Condition())
        pickle.dumps(Event())
        pickle.dumps(Barrier(1))
    """,
    "connections": """
        connection.Connection(-1)
        connection.Connection('x')
        connection.Connection(1, False, False)
        Pipe(False)[0].send(1)
        Pipe(False)[1].recv()
        Pipe(False)[1].poll()
        closed(Pipe()[0]).send(1)
        closed(Pipe()[0]).recv()
        closed(Pipe()[0]).poll()
        closed(Pipe()[0]).fileno()
        closed(closed(Pipe()[0])).closed
        Pipe()[0].recv()
        Pipe()[0].recv_bytes(-1)
        Pipe()[0].recv_bytes('x')
        Pipe()[0].send(lambda: 1)
        Pipe()[0].send_bytes('text')
        Pipe()[0].send_bytes(1)
        fed(Pipe())[0].send_bytes(b'abc', -1)
        fed(Pipe())[0].send_bytes(b'abc', 4)
        fed(Pipe())[0].send_bytes(b'abc', 1, -1)
        fed(Pipe())[0].send_bytes(b'abc', 1, 3)
        fed(Pipe())[0].send_bytes(memoryview(b'abcd')[::2])
        fed(Pipe())[0].send_bytes(array.array('i', [1, 2]), 4)
        fed(Pipe())[0].send_bytes(memoryview(array.array('i', [1, 2, 3]))[::2])
        fed(Pipe())[1].recv_bytes(2)
        fed(Pipe())[1].recv_bytes_into(bytearray(2))
        fed(Pipe())[1].recv_bytes_into(bytearray(9), -1)
        fed(Pipe())[1].recv_bytes_into(bytearray(9), 10)
        fed(Pipe())[1].recv_bytes_into(bytearray(9), 8)
        fed(Pipe())[1].recv_bytes_into(b'a constant that is long enough')
        fed(Pipe())[1].recv_bytes_into('text')
        fed(Pipe())[1].recv()
        Pipe()[0].poll('x')
        Pipe()[0].poll(-1)
        pickle.dumps(Pipe()[0])
        connection.wait(['x'], 0)
        connection.wait([None], 0)
        connection.wait([-1], 0)
        connection.wait([1.5], 0)
        connection.wait(1, 0)
        connection.wait([], 0)
        connection.wait([closed(Pipe()[0])], 0)
        connection.wait([10**6], 0)
        connection.wait(twice(Pipe()[0]), 0)
        connection.wait([Pipe()[0]], 'x')
        connection.Listener(1)
        connection.Listener('/nowhere/at/all')
        connection.Listener(family='AF_NOTHING')
        connection.Listener(family='AF_PIPE')
        connection.Listener(authkey='text')
        connection.Listener(('localhost', 'x'))
        closed(connection.Listener()).accept()
        closed(connection.Listener()).address
        closed(connection.Listener()).last_accepted
        connection.Client(1)
        connection.Client('/nowhere/at/all')
        connection.Client('/nowhere', 'AF_NOTHING')
        connection.Client('/nowhere', authkey='text')
        connection.deliver_challenge(Pipe()[0], 'text')
        connection.answer_challenge(Pipe()[0], 'text')
    """,
    "pools": """
        Pool(0)
        Pool(-1)
        Pool('x')
        Pool(1.5)
        Pool(1, initializer=1)
        Pool(1, maxtasksperchild=0)
        Pool(1, maxtasksperchild='x')
        pool.ThreadPool(0)
        threads().join()
        threads().map(abs, 1)
        threads().map(1, [1])
        threads().apply(1)
        threads().map(abs, ['x'])
        threads().starmap(divmod, [1])
        threads().apply_async(threading.Event().wait, (9,)).get(0.01)
        threads().apply_async(threading.Event().wait, (9,)).successful()
        threads().apply_async(abs, ('x',)).get(9)
        threads().imap(abs, [], 0)
        threads().imap(abs, [], -1)
        threads().imap_unordered(abs, [], 0)
        next(threads().imap(abs, []))
        threads().imap(threading.Event().wait, [9]).next(0.01)
        closed(threads()).map(abs, [1])
        closed(threads()).apply(abs, (1,))
        closed(threads()).apply_async(abs, (1,))
        closed(threads()).imap(abs, [1])
        closed(threads()).starmap(abs, [(1,)])
        closed(threads()).__enter__()
        terminated(threads()).map(abs, [1])
        pickle.dumps(threads())
    """,
    "values": """
        Value('nothing')
        Value(1)
        Value('i', 'x')
        Value('i', 1, 2)
        Value('i', lock=3)
        Value('i', 2**70).value
        Array('i', -1)
        Array('i', 'ab')
        Array('i', 1.5)
        Array('i', 1)[2]
        Array('i', 1)['x']
        setattr(Value('i'), 'value', 'x')
        setattr(Value('i'), 'value', 1.5)
        RawValue('i', 'x')
        RawArray('i', -1)
        RawArray('c', b'abc').value
        sharedctypes.synchronized(1)
        sharedctypes.synchronized(Value('i'))
        sharedctypes.copy(1)
        pickle.dumps(Value('i'))
        pickle.dumps(RawValue('i'))
        heap.BufferWrapper(-1)
    """,
    "shared memory": """
        shared_memory.SharedMemory()
        shared_memory.SharedMemory(create=True)
        shared_memory.SharedMemory(create=True, size=0)
        shared_memory.SharedMemory(create=True, size=-1)
        shared_memory.SharedMemory(create=True, size='x')
        shared_memory.SharedMemory('nowhere_at_all')
        shared_memory.SharedMemory(1)
        shared_memory.ShareableList(1)
        shared_memory.ShareableList(name='nowhere_at_all')
        with_items([1, 'ab', None])[3]
        with_items([1, 'ab', None])[-4]
        with_items([1, 'ab', None])['x']
        with_items([1, 'ab', None]).__setitem__(1, 'x' * 99)
        with_items([1, 'ab', None]).__setitem__(3, 1)
        with_items([1, 'ab', None]).index(7)
    """,
    "managers": """
        managers.BaseManager(ctx=1)
        managers.BaseManager(serializer='nothing')
        managers.BaseManager(('localhost', 1), b'x').connect()
        managers.BaseManager(('localhost', 1), 'text').connect()
        managers.BaseManager().join()
        managers.BaseManager().start(initializer=1)
        managers.BaseManager().shutdown()
        managers.BaseManager.register('A', dict, method_to_typeid={1: 2})
        managers.SyncManager().list()
        managers.SyncManager().__enter__().address and managers.BaseManager().get_server().bad
        managers.Token('a', 'b')
    """,
    "the rest": """
        log_to_stderr('NOTHING')
        reduction.ForkingPickler.dumps(lambda: 1)
        reduction.ForkingPickler.loads(b'')
        reduction.DupFd(-1)
        resource_tracker.register('name', 'nothing')
        util.Finalize(None, print)
        util.Finalize(None, print, exitpriority='x')
        util.Finalize(1, print)
        context.assert_spawning(1)
        cpu_count(1)
    """,
}


class Helpers:
    """Makes what the uses need, in the state they need, and clears it away."""

    def __init__(self, package: Any) -> None:
        self.package = package
        self.ends: list[Any] = []

    def started(self) -> Any:
        process = self.package.get_context("fork").Process(target=print, args=("",))
        sys.stdout.flush()
        process._target = int
        process._args = ()
        process.start()
        process.join()
        return process

    def running(self) -> Any:
        process = self.package.get_context("fork").Process(target=threading.Event().wait)
        process.start()
        self.ends += [process.join, process.kill]
        return process

    def closed(self, thing: Any) -> Any:
        thing.close()
        return thing

    def full(self) -> Any:
        queue = self.package.Queue(1)
        queue.put(1)
        self.ends.append(queue.get)
        return queue

    def taken(self, lock: Any) -> Any:
        lock.acquire()
        self.ends.append(lock.release)
        return lock

    def aborted(self, barrier: Any) -> Any:
        barrier.abort()
        return barrier

    def in_a_thread(self, call: Any) -> None:
        caught: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if caught:
            raise caught[0]

    def fed(self, pipe: Any) -> Any:
        pipe[0].send_bytes(b"a message")
        self.ends += [pipe[0].close, pipe[1].close]
        return pipe

    def twice(self, thing: Any) -> Any:
        return [thing, thing]

    def threads(self) -> Any:
        made = self.package.pool.ThreadPool(1)
        self.ends.append(made.terminate)
        return made

    def terminated(self, pool: Any) -> Any:
        pool.terminate()
        return pool

    def with_items(self, items: list[Any]) -> Any:
        made = self.package.shared_memory.ShareableList(items)
        self.ends += [made.shm.unlink, made.shm.close]
        return made


def outcome(package: Any, use: str) -> list[str]:
    """The names of the classes of what is raised, the most special first; "returns" if nothing."""
    helpers = Helpers(package)
    names = {name: getattr(helpers, name) for name in dir(Helpers) if not name.startswith("_")}
    names |= vars(package) | {"array": array, "ctypes": ctypes, "pickle": pickle}
    names["threading"] = threading
    try:
        eval(use, names)
    except Exception as error:
        return [base.__name__ for base in type(error).__mro__]
    else:
        return ["returns"]
    finally:
        for end in reversed(helpers.ends):
            try:
                end()
            except Exception:
                continue


def main(name: str) -> None:
    package = importlib.import_module(name)
    for module in (
        *("connection", "context", "heap", "managers", "pool", "reduction", "resource_tracker"),
        *("shared_memory", "sharedctypes", "util"),
    ):
        importlib.import_module(f"{name}.{module}")
    package.set_start_method("fork")
    found = {
        use: outcome(package, use)
        for uses in USES.values()
        for use in map(str.strip, uses.strip().splitlines())
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
