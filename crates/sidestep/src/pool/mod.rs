//! The pool's engine: tasks and results as messages, and a board that says who does what.
//!
//! ```text
//!   submitter ──tasks──▶ workers ──results──▶ collector
//!                          │ │
//!                        board: which task each worker is running
//! ```
//!
//! Workers take tasks from the queue directly; nobody hands them out. Taking a task and noting its
//! number on the worker's line of the board happen so that the note is there no later than the
//! task is gone. A worker clears its note after it has put the result. So when a worker is dead,
//! the collector first takes the results that are there, then looks at the board: a note that is
//! left names the one task that the worker was running.
//!
//! Numbers count the tasks ever submitted, wrapping; a result carries its task's number.

use crate::channel::{EnvelopeBox, Put, Queue, QueueOptions, Taken};
use crate::crash;
use crate::error::Result;
use crate::os::clock::Deadline;
use crate::primitive::Ordering;
use crate::shm::{Envelope, Family, Handle, Kind, Ref, family};
use crate::sync::{Population, Stamp, Wait};

/// Bytes of a worker's line on the board.
///
/// | offset | field  | written by                  | meaning                                        |
/// |-------:|--------|-----------------------------|------------------------------------------------|
/// |      0 | note   | the worker; who replaces it | two words: the task that it runs (see `shm::note`) |
/// |     16 | `DONE` | the worker                  | tasks done by all workers of this line         |
/// |     24 | `BEGUN`| the worker, once            | workers of this line that came to take tasks   |
const LINE: u64 = 64;
const DONE: u64 = 16;
const BEGUN: u64 = 24;

/// The names of a pool's parts, for its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolHandle {
    /// The queue of tasks.
    pub tasks: Handle,
    /// The queue of results.
    pub results: Handle,
    /// The board.
    pub board: Handle,
    /// Lines on the board.
    pub lines: u32,
    /// The process that submits tasks.
    pub owner: Stamp,
}

/// A pool's shared parts. If the submitter dies, workers find out ([`Pool::is_orphaned`]); if a worker dies, see [`Pool::lost`]; both queues go on in any case.
pub struct Pool {
    tasks: Queue,
    results: Queue,
    board: Ref,
    lines: u32,
    owner: Stamp,
}

/// A message for the pool: short bytes, or an envelope.
pub enum Parcel<'a> {
    /// At most [`Pool::SHORT`] bytes.
    Short(&'a [u8]),
    /// Anything.
    Long(Envelope),
}

/// A task or a result, taken.
pub enum Delivery {
    /// Short bytes: they were put into the buffer.
    Short {
        /// The task's number.
        number: u32,
    },
    /// An envelope.
    Long {
        /// The task's number.
        number: u32,
        /// What was sent.
        envelope: Envelope,
    },
    /// The worker with this line is about to end in order, having nothing left to report.
    Retired {
        /// Its line.
        worker: u32,
    },
    /// Somebody wants the collector to look around.
    Nudge,
}

/// Tags of what lies in the queue of results.
const RESULT: u8 = 0;
const RETIRED: u8 = 1;
const NUDGE: u8 = 2;

impl Pool {
    /// Longest message that needs no envelope, in bytes.
    pub const SHORT: usize = Queue::INLINE_MAX - 8;

    /// A pool with a board of `lines` lines, for as many workers at once.
    ///
    /// # Errors
    /// The arena is at its ceiling.
    pub fn new(lines: u32) -> Result<Self> {
        let family = family()?;
        Ok(Self {
            owner: family.me(),
            tasks: QueueOptions::new().create()?,
            results: QueueOptions::new().create()?,
            board: family.create(Kind::Board, LINE * u64::from(lines))?,
            lines,
        })
    }

    /// The pool that `handle` names.
    ///
    /// # Errors
    /// It is gone.
    pub fn from_handle(handle: PoolHandle) -> Result<Self> {
        Ok(Self {
            tasks: Queue::from_handle(handle.tasks)?,
            results: Queue::from_handle(handle.results)?,
            board: Ref::from_handle(handle.board, Kind::Board)?,
            lines: handle.lines,
            owner: handle.owner,
        })
    }

    /// The names for a worker.
    pub fn handle(&self) -> PoolHandle {
        PoolHandle {
            tasks: self.tasks.object().handle(),
            results: self.results.object().handle(),
            board: self.board.handle(),
            lines: self.lines,
            owner: self.owner,
        }
    }

    /// The references behind [`Pool::handle`].
    pub fn objects(&self) -> [&Ref; 3] {
        [self.tasks.object(), self.results.object(), &self.board]
    }

    fn family(&self) -> &'static Family {
        self.board.family()
    }

    fn line(&self, worker: u32) -> u64 {
        self.board.payload() + LINE * u64::from(worker.min(self.lines.saturating_sub(1)))
    }

    /// Submits a task: its number.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was submitted.
    pub fn submit(&self, task: Parcel<'_>) -> Result<u32> {
        send(&self.tasks, 0, task)
    }

    /// Takes a task for the worker with this line, if there is one; short ones go into `buffer`.
    ///
    /// # Errors
    /// No memory to hold the task: it stays.
    pub fn take(&self, worker: u32, buffer: &mut Vec<u8>) -> Result<Option<Delivery>> {
        let start = buffer.len();
        Ok(
            match self.tasks.try_take_noted(buffer, self.line(worker))? {
                Taken::Bytes { number, .. } => {
                    buffer.drain(start..buffer.len().min(start + 8));
                    Some(Delivery::Short { number })
                }
                Taken::Envelope {
                    number,
                    envelope: EnvelopeBox(envelope),
                    ..
                } => Some(Delivery::Long { number, envelope }),
                Taken::Empty => None,
            },
        )
    }

    /// Waits until there may be a task, or the pool is closed.
    pub fn wait_task(&self, deadline: Deadline) -> Wait {
        self.tasks.wait_items(deadline)
    }

    /// Whether the process that submits tasks has ended, so that no more will come.
    pub fn is_orphaned(&self) -> bool {
        self.family().is_dead(self.owner)
    }

    /// After a wait: wakes one more worker if there is more to do.
    pub fn pass_on_tasks(&self) {
        self.tasks.pass_on();
    }

    /// Reports the result of task `number`, which the worker with this line has run.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was reported, and the note stands.
    pub fn finish(&self, worker: u32, number: u32, result: Parcel<'_>) -> Result<()> {
        send(&self.results, number, result)?;
        crash::point("pool: result put");
        let line = self.line(worker);
        let done = self.family().word(line + DONE);
        done.store(done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        crash::point("pool: task counted");
        // After the result has been committed: a worker that dies in between has lost nothing.
        self.family().word(line).store(0, Ordering::Release);
        crash::point("pool: note cleared");
        Ok(())
    }

    /// Takes a result, if there is one.
    ///
    /// # Errors
    /// No memory to hold the result: it stays.
    pub fn collect(&self, buffer: &mut Vec<u8>) -> Result<Option<Delivery>> {
        let start = buffer.len();
        Ok(match self.results.try_take(buffer)? {
            Taken::Bytes { tag: NUDGE, .. } => Some(Delivery::Nudge),
            Taken::Bytes { tag, .. } => {
                let mut number = [0; 8];
                if let Some(bytes) = buffer.get(start..start + 8) {
                    number.copy_from_slice(bytes);
                    buffer.drain(start..start + 8);
                }
                let number = u64::from_le_bytes(number) as u32;
                Some(match tag {
                    RETIRED => Delivery::Retired { worker: number },
                    _ => Delivery::Short { number },
                })
            }
            Taken::Envelope {
                word,
                envelope: EnvelopeBox(envelope),
                ..
            } => Some(Delivery::Long {
                number: word as u32,
                envelope,
            }),
            Taken::Empty => None,
        })
    }

    /// Says that the worker with this line is about to end in order.
    ///
    /// # Errors
    /// The arena is at its ceiling: the collector then finds out later, by itself.
    pub fn retire(&self, worker: u32) -> Result<()> {
        let line = u64::from(worker).to_le_bytes();
        self.results.try_put(RETIRED, &[&line]).map(|_| ())
    }

    /// Has the collector look around, if it sleeps.
    ///
    /// # Errors
    /// The arena is at its ceiling: the collector then looks in its own time.
    pub fn nudge(&self) -> Result<()> {
        self.results.try_put(NUDGE, &[]).map(|_| ())
    }

    /// Waits until there may be a result.
    pub fn wait_result(&self, deadline: Deadline) -> Wait {
        self.results.wait_items(deadline)
    }

    /// The worker with this line is dead, and all results were collected after it died: the task
    /// that it was running, which is lost unless its result is among those (the worker then died
    /// before it could clear its note). The line is then free for another worker.
    pub fn lost(&self, worker: u32) -> Option<u32> {
        // If the worker died while it held the queue's lock, this finishes what it had begun.
        let (_, taken) = self.tasks.counts();
        let noted = self.family().withdraw_note(self.line(worker));
        // The note comes first, so a task that was noted may be in the queue still.
        noted.filter(|number| taken.wrapping_sub(*number).cast_signed() > 0)
    }

    /// How many tasks the workers of this line have done.
    pub fn done(&self, worker: u32) -> u64 {
        self.family()
            .word(self.line(worker) + DONE)
            .load(Ordering::Relaxed)
    }

    /// Says that the worker with this line is ready to take tasks.
    pub fn begin(&self, worker: u32) {
        let begun = self.family().word(self.line(worker) + BEGUN);
        begun.store(begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        crash::point("pool: worker has come");
    }

    /// How many workers of this line ever came to take tasks.
    pub fn begun(&self, worker: u32) -> u64 {
        self.family()
            .word(self.line(worker) + BEGUN)
            .load(Ordering::Relaxed)
    }

    /// Number of tasks that nobody has taken yet.
    pub fn waiting(&self) -> u32 {
        self.tasks.len()
    }

    /// No task will come any more: workers that find none stop.
    pub fn close(&self) {
        self.tasks.close();
    }

    /// Whether the pool was closed.
    pub fn is_closed(&self) -> bool {
        self.tasks.is_closed()
    }
}

/// Puts a message with a task's number in front of it (for a task, which the queue itself counts,
/// the number says nothing).
fn send(queue: &Queue, number: u32, parcel: Parcel<'_>) -> Result<u32> {
    let word = u64::from(number);
    let mut parcel = parcel;
    let len = match &parcel {
        Parcel::Short(bytes) => bytes.len() as u64,
        Parcel::Long(envelope) => envelope.len(),
    };
    loop {
        parcel = match parcel {
            Parcel::Short(bytes) => {
                let prefix = word.to_le_bytes();
                match queue.try_put(RESULT, &[&prefix, bytes])? {
                    Put::Done(number) => return Ok(number),
                    Put::Full => Parcel::Short(bytes),
                }
            }
            Parcel::Long(envelope) => match queue.try_put_envelope(RESULT, word, envelope)? {
                Ok(number) => return Ok(number),
                Err(envelope) => Parcel::Long(envelope),
            },
        };
        queue.check_open()?;
        let _ = queue.wait_space(len, Deadline::NEVER);
    }
}
