"""Notes about named segments, by which they are found when a whole family was killed.

The resource tracker unlinks what a program leaves behind. Should it be killed together with all
members of its family, somebody else has to know which names were theirs. So each family has a
folder beside its segments, with a link for each segment:

```text
/dev/shm/psm_1a2b                      a segment, inode 83
/dev/shm/sidestep-4711/                a family's folder; its tracker's pipe has the inode 4711
/dev/shm/sidestep-4711/83 -> psm_1a2b  "inode 83, once it has a name, is psm_1a2b, and ours"
```

Beside the segments, since then both have the same life: no home or temporary folder has to be
writable, a container sees the notes of the segments that it sees, and a restart of the machine
takes both. The link is made before the segment gets its name, so there is no instant at which a
kill loses one. A name alone says nothing, it may be another program's by now; so only the very
inode is removed that the link tells of.

Who is still there says so by a shared lock (`flock`), which goes with its holder however that
ends: the tracker and the members that use named segments hold one on the folder, and every
process one on each segment that it has open. `sweep` touches nothing that is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

__all__ = [
    "FOLDER",
    "add",
    "begin",
    "forget",
    "forget_name",
    "inodes",
    "join",
    "path",
    "share",
    "sweep",
]

FOLDER = "/dev/shm"
_PREFIX = "sidestep-"
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def path(pipe: int) -> str:
    """The folder of the family whose tracker reads from `pipe`; both ends have one inode."""
    return f"{FOLDER}/{_PREFIX}{os.fstat(pipe).st_ino}"


def begin(pipe: int) -> int | None:
    """Make a family's folder: a locked descriptor of it, None if there can be none."""
    with contextlib.suppress(OSError):
        os.mkdir(path(pipe), 0o700)
        return join(pipe)
    return None


def join(pipe: int) -> int | None:
    """Open and lock the folder of the family; None if there is none, or it is not ours."""
    place = path(pipe)
    with contextlib.suppress(OSError):
        fd = _open_own(place)
        if fd is None:
            return None
        # Somebody may be sweeping it, since nobody has locked it yet: then it is lost.
        if share(fd) and _names(place, fd):
            return fd
        os.close(fd)
    return None


def share(fd: int) -> bool:
    """Lock for as long as a copy of the descriptor is open; False if someone is removing it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def add(folder: int, inode: int, name: str) -> None:
    """Note that the segment `inode` is about to be called `name`, given without a slash."""
    with contextlib.suppress(OSError):  # no room: the tracker alone knows of it
        os.symlink(name, str(inode), dir_fd=folder)


def forget(folder: int, inode: int) -> None:
    """Strike off a segment."""
    with contextlib.suppress(OSError):
        os.unlink(str(inode), dir_fd=folder)


def forget_name(folder: int, name: str) -> None:
    """Strike off every segment that has had the name."""
    for inode in inodes(folder).get(name, ()):
        forget(folder, inode)


def inodes(folder: int) -> dict[str, set[int]]:
    """The names that are noted, and which segments may have them."""
    found: dict[str, set[int]] = {}
    with contextlib.suppress(OSError):
        for note in os.listdir(folder):
            with contextlib.suppress(OSError, ValueError):
                found.setdefault(os.readlink(note, dir_fd=folder), set()).add(int(note))
    return found


def sweep() -> None:
    """Remove the segments of families of this user of which nobody is left.

    Segments that some process of this package has open stay, and are looked at by the next sweep.
    """
    with contextlib.suppress(OSError):
        for entry in os.listdir(FOLDER):
            if entry.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _sweep_family(f"{FOLDER}/{entry}")


def _sweep_family(path: str) -> None:
    folder = _open_own(path)
    if folder is None:
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name, numbers in inodes(folder).items():
            for inode in numbers:
                if _remove(name, inode):
                    forget(folder, inode)
        os.rmdir(path)
    finally:
        os.close(folder)


def _remove(name: str, inode: int) -> bool:
    """Unlink `name` if it still is this segment; False if it has to wait for its users."""
    if "/" in name:
        return True
    path = f"{FOLDER}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if os.fstat(fd).st_ino == inode:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _open_own(path: str) -> int | None:
    """Open a folder that only we can have filled: anybody may make names in FOLDER."""
    fd = os.open(path, _OPEN_FOLDER)
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077:
        return fd
    os.close(fd)
    return None


def _names(path: str, fd: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    return False
