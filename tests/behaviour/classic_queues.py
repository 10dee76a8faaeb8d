"""Subclasses of queues that reach inside, the way libraries with picklers of their own do."""

import io
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

from sidestep import queues, util
from sidestep.context import assert_spawning


class Marked(pickle.Pickler):
    """A pickler that can be told from ours: it adds one to every `Number`."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Number):
            return Number, (obj.value + 1,)
        return NotImplemented


class Number:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def marked(obj: Any) -> bytes:
    buffer = io.BytesIO()
    Marked(buffer).dump(obj)
    return buffer.getvalue()


class OwnFeeder(queues.Queue[Any]):
    """A queue with a feeder of its own, an attribute of its own in its state, and a log of it."""

    def __init__(self, maxsize: int = 0, label: str = "", ctx: Any = None) -> None:
        super().__init__(maxsize=maxsize, ctx=ctx)
        self.label = label

    def __getstate__(self) -> Any:
        assert_spawning(self)
        return (
            self._ignore_epipe,
            self._maxsize,
            self._reader,
            self._writer,
            self.label,
            self._rlock,
            self._wlock,
            self._sem,
            self._opid,
        )

    def __setstate__(self, state: Any) -> None:
        (
            self._ignore_epipe,
            self._maxsize,
            self._reader,
            self._writer,
            self.label,
            self._rlock,
            self._wlock,
            self._sem,
            self._opid,
        ) = state
        self._reset()  # type: ignore[attr-defined]

    def _start_thread(self) -> None:
        self._thread = threading.Thread(
            target=OwnFeeder._feed,
            args=(
                self._buffer,  # type: ignore[attr-defined]
                self._notempty,  # type: ignore[attr-defined]
                self._send_bytes,  # type: ignore[attr-defined]
                self._wlock,
                self._writer.close,
                self._on_queue_feeder_error,
                self._sem,
            ),
            name=f"feeder of {self.label}",
            daemon=True,
        )
        self._thread.start()
        self._jointhread = util.Finalize(
            self._thread,
            OwnFeeder._finalize_join,  # type: ignore[attr-defined]
            [weakref.ref(self._thread)],
            exitpriority=-5,
        )
        self._close = util.Finalize(
            self,
            OwnFeeder._finalize_close,  # type: ignore[attr-defined]
            [self._buffer, self._notempty],  # type: ignore[attr-defined]
            exitpriority=10,
        )

    @staticmethod
    def _feed(
        buffer: Any,
        notempty: threading.Condition,
        send_bytes: Callable[[bytes], None],
        writelock: Any,
        close: Callable[[], None],
        onerror: Callable[[BaseException, Any], None],
        sem: Any,
    ) -> None:
        while True:
            with notempty:
                while not buffer:
                    notempty.wait()
            obj = buffer.popleft()
            if obj is queues._sentinel:
                close()
                return
            try:
                data = marked(obj)
                with writelock:
                    send_bytes(data)
            except Exception as error:
                sem.release()
                onerror(error, obj)


class OwnPickler(queues.SimpleQueue[Any]):
    """A simple queue that pickles in its own way, and whose state is taken apart by name."""

    def __init__(self, label: str = "", ctx: Any = None) -> None:
        super().__init__(ctx=ctx)
        self.label = label

    def __getstate__(self) -> Any:
        assert_spawning(self)
        return (self._reader, self._writer, self.label, self._rlock, self._wlock)

    def __setstate__(self, state: Any) -> None:
        (self._reader, self._writer, self.label, self._rlock, self._wlock) = state

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        data = marked(obj)
        with self._wlock:
            self._writer.send_bytes(data)


class Mentions(queues.Queue[Any]):
    """Nothing is overridden, but a method looks at what the original is made of."""

    def room(self) -> int:
        free: int = self._sem._semlock._get_value()  # type: ignore[attr-defined]
        return free


class MentionsInJoinable(queues.JoinableQueue[Any]):
    def room(self) -> int:
        return next(iter(self._sem._semlock._get_value() for _ in "1"))  # type: ignore[attr-defined,no-any-return]


class MentionsInProperty(queues.SimpleQueue[Any]):
    @property
    def lock(self) -> Any:
        return self._rlock  # type: ignore[attr-defined]


class Plain(queues.Queue[Any]):
    """What most subclasses are."""

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(("plain", obj), block, timeout)


class DeepBelowPlain(Plain):
    def _after_fork(self) -> None:
        super()._after_fork()  # type: ignore[misc]
