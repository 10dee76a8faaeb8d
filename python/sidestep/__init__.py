"""A drop-in `multiprocessing` on an engine in Rust.

Processes live in `process` and `context`; how they start in `popen_*`, `spawn` and
`forkserver`; queues in `queues`, pipes in `connection`, locks in `synchronize`, shared values
in `sharedctypes`, `heap` and `frozen`, pools in `pool`, servers of shared objects in `managers`,
records that children log in `log_relay`.
All names below belong to the default context. Importing the package creates nothing.
"""

import sys

from . import context

__all__ = [
    # processes
    "Process",
    "active_children",
    "cpu_count",
    "current_process",
    "freeze_support",
    "parent_process",
    # shared objects
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "Value",
    "freeze",
    # errors
    "AuthenticationError",
    "BufferTooShort",
    "ProcessError",
    "TimeoutError",
    # settings
    "allow_connection_pickling",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "reducer",
    "relay_logging",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

_default = context._default_context

Process = context.Process
active_children = _default.active_children
cpu_count = _default.cpu_count
current_process = _default.current_process
freeze_support = _default.freeze_support
parent_process = _default.parent_process

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
Value = _default.Value
freeze = _default.freeze

TYPE_CHECKING = False
if TYPE_CHECKING:
    # As with the standard library these may stand in annotations: for a type checker they are
    # the classes that the methods return.
    from .queues import JoinableQueue as JoinableQueue
    from .queues import Queue as Queue
    from .queues import SimpleQueue as SimpleQueue
else:
    JoinableQueue = _default.JoinableQueue
    Queue = _default.Queue
    SimpleQueue = _default.SimpleQueue
# No name of the package.
del TYPE_CHECKING

AuthenticationError = context.AuthenticationError
BufferTooShort = context.BufferTooShort
ProcessError = context.ProcessError
TimeoutError = context.TimeoutError

allow_connection_pickling = _default.allow_connection_pickling
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
reducer = _default.reducer
relay_logging = _default.relay_logging
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

# Levels of the package's logger that `logging` itself does not have.
SUBDEBUG = 5
SUBWARNING = 25

# Spawned children run the main module under this name; with the alias, what they pickle is
# found here, and what they unpickle there.
if "__main__" in sys.modules:
    sys.modules["__mp_main__"] = sys.modules["__main__"]
