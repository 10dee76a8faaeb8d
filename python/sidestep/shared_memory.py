"""Named shared memory: `SharedMemory` blocks, and `ShareableList` on top of one.

These are POSIX shared memory objects under a name that any program of this user can open, as
the standard library makes them, and the layout of a `ShareableList` is the standard library's,
too. Unlike everything else here a name outlives its processes until somebody calls `unlink`;
the resource tracker does so for a program that was killed, and the next program that makes a
block does for one that was killed together with its tracker (see `_notes`).

A new block gets its memory first and its name last: nobody finds one that is half made, and what
does not fit is an error of the constructor.
"""

from __future__ import annotations

import _posixshmem
import contextlib
import errno
import mmap
import os
import secrets
import struct
import sys
from functools import partial

from . import _notes, _original, _sidestep, resource_tracker, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Generic, TypeVar

    _T = TypeVar("_T")
else:
    from ._generic import Generic

    _T = None

__all__ = ["ShareableList", "SharedMemory"]

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
_SHM_RANDOM_BYTES = 4
# The kernel gives a step back if a signal comes, so that one must not take long: some 2 ms.
_STEP_BYTES = 16 << 20
_LEAST_ASKED_FOR = 1 << 20
# Where a file without a name can be found to be given one.
_DESCRIPTORS = "/proc/self/fd"


def _make_filename() -> str:
    """A fresh name, with its slash. Another process may have it, however unlikely that is."""
    return _SHM_NAME_PREFIX + secrets.token_hex(_SHM_RANDOM_BYTES)


def _lacking(size: int) -> str | None:
    """Tell why `size` more bytes of memory are too many, and the way out; None if they are not."""
    # To ask for less takes longer than to take it; the heap does not ask either.
    shortage = _sidestep.memory_shortage(size) if size >= _LEAST_ASKED_FOR else None
    if shortage is None:
        return None
    in_group, left, limit = shortage
    if in_group:
        return (
            f"the memory control group has {left:,} bytes left of its limit of {limit:,}, "
            "which can be raised (containers: --memory)"
        )
    return f"the machine has {left:,} of {limit:,} bytes left"


@_original.descend("shared_memory")
class SharedMemory(_original.Root):
    """A block of memory under a name, which other processes can open by that name.

    Args:
        name: The block's name, without a slash. None, for a new block, makes one up.
        create: Make a new block; otherwise open an existing one.
        size: Bytes of a new block, zeroed. Ignored when opening: the block's own size counts.
        track: Have the block unlinked, with a warning, if all processes of this program end
            without calling `unlink`. For a block that this program only opened the tracker
            warns and does not unlink: its maker may still need it.

    Raises:
        FileExistsError: `create` and the name is taken.
        FileNotFoundError: There is no block of this name.
        ValueError: No size for a new block, a negative one, or no name for an old block.
        UnicodeEncodeError: The name has no UTF-8.
        OSError: ENOSPC or ENOMEM, a new block does not fit: there is no room in /dev/shm, or the
            machine or the memory control group has not so much left. All its memory is taken at
            once.

    Process safety: all see the same bytes at once, without any lock.
    If one dies: the bytes stay as they are until the last process lets go and somebody unlinks.
    """

    # What close() and unlink() meet if the constructor failed.
    _name: str | None = None
    _fd = -1
    _inode = 0
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    # Subclasses set these to open in other ways.
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = True

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True
    ) -> None:
        if size < 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if create:
            self._create(name, size)
        else:
            self._open(name)
        try:
            status = os.fstat(self._fd)
            self._size, self._inode = status.st_size, status.st_ino
            # As long as somebody has it open no sweep of another family's names removes it.
            _notes.share(self._fd)
            with util._naming_limits("cannot map a shared memory block"):
                self._mmap = mmap.mmap(self._fd, self._size)
            self._buf = memoryview(self._mmap)
            if track:
                self._tell_tracker("REGISTER" if create else "ATTACH")
        except BaseException:
            self.close()
            if create:  # a block that was here before us is not ours to remove
                _posixshmem.shm_unlink(self._name)
            raise

    def _open(self, name: str | None) -> None:
        """Set the descriptor and the name of a block that exists."""
        assert name is not None
        self._name = "/" + name if self._prepend_leading_slash else name
        with util._naming_limits("cannot open a shared memory block"):
            self._fd = _posixshmem.shm_open(self._name, self._flags, mode=self._mode)

    def _create(self, name: str | None, size: int) -> None:
        """Set the descriptor and the name of a new block; a made-up name is one that is free."""
        path = _make_filename() if name is None else name
        if name is not None and self._prepend_leading_slash:
            path = "/" + name
        path.encode()  # as the system's own function would: nobody could open or unlink it
        self._fd = self._open_nameless()
        try:
            if self._fd >= 0:
                self._reserve(size)
            while not self._take_name(path, size):
                if name is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                path = _make_filename()
        except BaseException:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            raise
        self._name = path

    def _open_nameless(self) -> int:
        """A file that has no name yet; -1 where there are none, or they cannot get one."""
        if not os.path.exists(_DESCRIPTORS):  # no /proc
            return -1
        try:
            return os.open(_notes.FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, self._mode)
        except OSError:
            return -1

    def _take_name(self, path: str, size: int) -> bool:
        """Give the new block its name; False if another block has it."""
        plain = path.lstrip("/")
        place = f"{_notes.FOLDER}/{plain}"
        if self._fd < 0 or "/" in plain or plain in ("", ".", ".."):
            # What is wrong with the name, if anything is, the system's own function says best.
            try:
                with util._naming_limits("cannot make a shared memory block"):
                    fd = _posixshmem.shm_open(path, self._flags, mode=self._mode)
            except FileExistsError:
                return False
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = fd
            try:
                self._reserve(size)
                self._note(plain)
            except BaseException:
                _posixshmem.shm_unlink(path)
                raise
            return True
        if os.path.lexists(place):
            # Perhaps of a family that was killed; and where it stays, no tracker is needed.
            _notes.sweep()
            if os.path.lexists(place):
                return False
        self._note(plain)
        try:
            # Only with a folder to start from is the link followed; the path is an absolute one.
            os.link(f"{_DESCRIPTORS}/{self._fd}", place, src_dir_fd=self._fd)
        except FileExistsError:
            self._strike_note()
            return False
        except BaseException as error:
            self._strike_note()
            if isinstance(error, OSError):  # about the name that was asked for
                raise OSError(error.errno, error.strerror, path) from None
            raise
        return True

    def _reserve(self, size: int) -> None:
        """Have the memory of a new block, rather than die of SIGBUS at the touch of a page.

        Nor of the kernel's want of memory, which kills without a word: so the machine and the
        control group are asked before each step, as others take from them meanwhile.
        """
        # Looked at first: trying would take away for a moment what others need.
        room = os.statvfs(self._fd)
        free = room.f_bavail * room.f_frsize
        total = room.f_blocks * room.f_frsize  # zero where there is no limit
        try:
            if total and size > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(self._fd, size)
            for start in range(0, size, _STEP_BYTES):
                short = _lacking(size - start)
                if short is not None:
                    raise OSError(
                        errno.ENOMEM,
                        f"a shared memory block of {size:,} bytes does not fit: {short}; "
                        "make it smaller, or free memory",
                    )
                os.posix_fallocate(self._fd, start, min(_STEP_BYTES, size - start))
        except OSError as error:
            if error.errno == errno.EFBIG:
                way_out = _sidestep.way_out(errno.EFBIG)
                raise OSError(
                    errno.EFBIG, f"a shared memory block of {size:,} bytes is too large{way_out}"
                ) from None
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"a shared memory block of {size:,} bytes does not fit: {free:,} of {total:,} "
                f"bytes are free in {_notes.FOLDER}; make that larger (containers: --shm-size), "
                "or use an Array or freeze(), which live elsewhere",
            ) from None

    def _note(self, name: str) -> None:
        # Programs that want no tracking replace `register`.
        if self._track and resource_tracker.register == _tracker.register:
            _tracker._note(name, os.fstat(self._fd).st_ino)

    def _strike_note(self) -> None:
        _tracker._strike_note(os.fstat(self._fd).st_ino)

    def _tell_tracker(self, command: str) -> None:
        assert self._name is not None
        if command == "ATTACH":
            _tracker._send(command, self._name, "shared_memory")
            _tracker._join_family()
        else:
            resource_tracker.register(self._name, "shared_memory")

    def __del__(self) -> None:
        try:
            with contextlib.suppress(OSError, BufferError):
                self.close()
        finally:
            # Where views are alive, the mapping goes with the last one, but this does not.
            self._close_fd()

    def __reduce__(self) -> tuple[Any, ...]:
        build = self.__class__ if self._track else partial(self.__class__, track=False)
        return build, (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The bytes, writable, until `close`; None from then on."""
        # None after close(), as the standard library has it; its type says otherwise, too.
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name under which other processes can open the block."""
        name = self._name or ""
        return name.removeprefix("/") if self._prepend_leading_slash else name

    @property
    def size(self) -> int:
        """Bytes in the block. Where the system rounds up to pages, the rounded number."""
        return self._size

    def close(self) -> None:
        """Let go of the memory in this process; the block and its name stay.

        Raises:
            BufferError: A view of `buf` is still alive.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            if sys.getrefcount(self._mmap) == 2 or _exported(self._mmap):
                self._mmap.close()
            # Else arrays made by `numpy.ndarray(buffer=...)` use the memory: they hold on to the
            # mapping without exporting a view, and would crash. It goes with the last of them.
            self._mmap = None
        self._close_fd()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def unlink(self) -> None:
        """Remove the name; to be called once, by any process.

        Processes that have the block open keep their memory. It is freed with the last of them.

        Raises:
            FileNotFoundError: The name was removed before.
        """
        if self._name:
            _posixshmem.shm_unlink(self._name)
            if self._track:
                _tracker._strike_note(self._inode)
                resource_tracker.unregister(self._name, "shared_memory")


_tracker = resource_tracker._resource_tracker


def _exported(mapping: mmap.mmap) -> bool:
    """Tell whether there are views of a mapping."""
    try:
        # Views are looked for first; a size that is none is refused then.
        mapping.resize(-1)
    except BufferError:
        return True
    except (OSError, ValueError, TypeError):
        pass
    return False


_SLOT = 8  # everything in a ShareableList is aligned to this many bytes
_encoding = "utf8"


def _strip(raw: bytes) -> bytes:
    # Text is padded with zeros and its length is not stored.
    return raw.rstrip(b"\x00")


# What to do with an unpacked value, by the code that is stored with it.
_CODE_PLAIN, _CODE_STR, _CODE_BYTES, _CODE_NONE = range(4)
_DECODERS: dict[int, Callable[[Any], Any]] = {
    _CODE_PLAIN: lambda value: value,
    _CODE_STR: lambda raw: _strip(raw).decode(_encoding),
    _CODE_BYTES: _strip,
    _CODE_NONE: lambda _value: None,
}
_CODES: dict[type, int] = {str: _CODE_STR, bytes: _CODE_BYTES, type(None): _CODE_NONE}
_FORMATS: dict[type, str] = {
    int: "q",
    float: "d",
    bool: "xxxxxxx?",
    type(None): "xxxxxx?x",
}


def _encode(value: object) -> tuple[str, int, Any]:
    """Format, code and packable form of a value, in the fewest slots that hold it."""
    kind = type(value)
    if isinstance(value, str | bytes):
        raw = value.encode(_encoding) if isinstance(value, str) else value
        code = _CODE_STR if isinstance(value, str) else _CODE_BYTES
        # The standard library counts characters, with one to spare. Bytes may need more.
        slots = max(len(value) // _SLOT + 1, -(-len(raw) // _SLOT))
        return f"{_SLOT * slots}s", code, raw
    if kind not in _FORMATS:
        raise TypeError(
            f"a ShareableList holds int, float, bool, str, bytes and None, not {kind.__name__}"
        )
    return _FORMATS[kind], _CODES.get(kind, _CODE_PLAIN), value


def _width(fmt: str) -> int:
    return int(fmt[:-1]) if fmt.endswith("s") else _SLOT


@_original.descend("shared_memory")
class ShareableList(Generic[_T]):
    """A list of fixed length in shared memory, whose items other processes can read and set.

    Args:
        sequence: The first items: int (64 bits), float, bool, str, bytes and None. None, with
            a name, opens the list of that name.
        name: Name of the block; made up for a new list when None.

    An item may be replaced by one of another type, text only if its bytes fit into the room of
    the first item at this place. Zero bytes at the end of text are lost.

    Process safety: there is no lock; a reader may see an item that is half written.
    If one dies: an item that it was setting may be half written.

    The layout, with N items, all in native byte order:

    | bytes       | what                                                        |
    |-------------|-------------------------------------------------------------|
    | 8           | N                                                           |
    | 8 * (N + 1) | where each item starts, and where the last ends, in the data |
    | K           | the data                                                    |
    | 8 * N       | struct format of each item, padded with zeros               |
    | N           | how to decode each item: plain, str, bytes, None            |
    """

    shm: SharedMemory

    def __init__(self, sequence: Iterable[_T] | None = None, *, name: str | None = None) -> None:
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._list_len: int = struct.unpack_from("q", self._bytes)[0]
            self._allocated_offsets: list[int] = list(
                struct.unpack_from(f"{self._list_len + 1}q", self._bytes, _SLOT)
            )
            return
        items = [_encode(item) for item in sequence or ()]
        self._list_len = len(items)
        self._allocated_offsets = [0]
        for fmt, _code, _value in items:
            if len(fmt) > _SLOT:
                raise ValueError("str or bytes item is too long for a ShareableList")
            self._allocated_offsets.append(self._allocated_offsets[-1] + _width(fmt))
        self.shm = SharedMemory(
            name, create=True, size=self._offset_back_transform_codes + self._list_len
        )
        struct.pack_into(
            f"{self._list_len + 2}q", self._bytes, 0, self._list_len, *self._allocated_offsets
        )
        for position, (fmt, code, value) in enumerate(items):
            self._write(position, fmt, code, value)

    @property
    def _bytes(self) -> memoryview:
        view: memoryview | None = self.shm.buf
        if view is None:
            raise ValueError(f"the list's shared memory {self.shm.name!r} is closed")
        return view

    @property
    def _offset_data_start(self) -> int:
        return _SLOT * (self._list_len + 2)

    @property
    def _offset_packing_formats(self) -> int:
        return self._offset_data_start + self._allocated_offsets[-1]

    @property
    def _offset_back_transform_codes(self) -> int:
        return self._offset_packing_formats + _SLOT * self._list_len

    def _place(self, position: int) -> int:
        """The position counted from the start. IndexError if there is none."""
        place = position + self._list_len if position < 0 else position
        if not 0 <= place < self._list_len:
            raise IndexError(f"position {position} is out of range: {self._list_len} items")
        return place

    def _get_packing_format(self, position: int) -> str:
        """The struct format of the item at `position`."""
        at = self._offset_packing_formats + _SLOT * self._place(position)
        return _strip(bytes(self._bytes[at : at + _SLOT])).decode(_encoding)

    def _write(self, place: int, fmt: str, code: int, value: Any) -> None:
        at = self._offset_packing_formats + _SLOT * place
        struct.pack_into(f"{_SLOT}s", self._bytes, at, fmt.encode(_encoding))
        self._bytes[self._offset_back_transform_codes + place] = code
        start = self._offset_data_start + self._allocated_offsets[place]
        struct.pack_into(fmt, self._bytes, start, value)

    def __getitem__(self, position: int) -> _T:
        place = self._place(position)
        start = self._offset_data_start + self._allocated_offsets[place]
        (raw,) = struct.unpack_from(self._get_packing_format(place), self._bytes, start)
        code = self._bytes[self._offset_back_transform_codes + place]
        value: _T = _DECODERS[code](raw)
        return value

    def __setitem__(self, position: int, value: _T) -> None:
        place = self._place(position)
        fmt, code, packable = _encode(value)
        if code in (_CODE_STR, _CODE_BYTES):
            room = self._allocated_offsets[place + 1] - self._allocated_offsets[place]
            if len(packable) > room:
                raise ValueError(
                    f"bytes/str item exceeds available storage: {len(packable)} bytes, and "
                    f"there is room for {room}"
                )
            fmt = f"{room}s"
        self._write(place, fmt, code, packable)

    def __iter__(self) -> Iterator[_T]:
        return (self[place] for place in range(self._list_len))

    def __len__(self) -> int:
        length: int = struct.unpack_from("q", self._bytes)[0]
        return length

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(self.__class__, name=self.shm.name), ()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The struct formats of all items, as they are stored now."""
        return "".join(map(self._get_packing_format, range(self._list_len)))

    def count(self, value: _T) -> int:
        """How many items equal `value`."""
        return sum(value == item for item in self)

    def index(self, value: _T) -> int:
        """Position of the first item that equals `value`.

        Raises:
            ValueError: There is none.
        """
        for place, item in enumerate(self):
            if item == value:
                return place
        raise ValueError(f"{value!r} not in this container")
