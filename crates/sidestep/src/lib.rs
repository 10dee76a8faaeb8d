//! Processes, queues, locks, shared memory and pools that survive a `kill -9`.
//!
//! A *family*, a process and what descends from it, shares one piece of memory without a name, the
//! arena. Queues, locks, values and pools lie in it. Any member may be killed at any instruction:
//! the others find everything in order, are told what was lost (the lock that it held, the task
//! that it ran), and take back what it had. When the last member is gone, the kernel has cleaned
//! up. There are no threads, no servers and no files behind it.
//!
//! # Two processes
//!
//! ```
//! use sidestep::channel::QueueOptions;
//! use sidestep::process::{Child, Exit};
//!
//! # fn main() -> sidestep::Result<()> {
//! let questions = QueueOptions::new().create()?;
//! let answers = QueueOptions::new().create()?;
//!
//! // The child begins with all that its parent shares.
//! let mut child = Child::fork(|| {
//!     while let Ok(Some(name)) = questions.get(None) {
//!         let _ = answers.put(&[b"hello, ", &name[..]].concat());
//!     }
//!     0
//! })?;
//! questions.put(b"world")?;
//! assert_eq!(answers.get(None)?.as_deref(), Some(&b"hello, world"[..]));
//!
//! questions.close();
//! assert_eq!(child.wait()?, Exit::Code(0));
//! # Ok(())
//! # }
//! ```
//!
//! # The layers
//!
//! Each stands on those below it (but `sync` keeps its objects in `shm`):
//!
//! | module      | what it has                                                                     |
//! |-------------|---------------------------------------------------------------------------------|
//! | `pool`      | tasks, results, and a board that names the task of a dead worker                |
//! | `process`   | child processes: start, wait, kill                                              |
//! | `channel`   | queues, pipes, and for strangers: frames, handshakes and the porch              |
//! | `shm`       | the arena: blocks, references, process slots, and the ledger that keeps them right |
//! | `sync`      | locks, semaphores, conditions, events, barriers; the engine's own mutex and gate |
//! | `os`        | the only callers of the kernel                                                  |
//! | `primitive` | atomics and futexes, real ones or loom's                                        |
//!
//! Each structure that lies in the arena has a table of its words in its documentation, which says
//! who writes them and what it means if the writer is killed there. The tests kill processes at
//! each of those steps.

#[cfg(feature = "crash-points")]
pub mod crash;
#[cfg(not(feature = "crash-points"))]
mod crash;
pub mod primitive;
pub mod sync;

/// For the models: the word of a pipe's bell.
#[cfg(loom)]
#[allow(missing_docs)]
#[path = "channel/bell.rs"]
pub mod bell;
#[cfg(not(loom))]
pub mod channel;
/// For the models: the words of a chain.
#[cfg(loom)]
#[allow(missing_docs)]
#[path = "channel/cursor.rs"]
pub mod cursor;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod objects;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod shm;

#[cfg(shuttle)]
pub use shm::simulated;

#[cfg(not(loom))]
pub use error::{Error, Result};
