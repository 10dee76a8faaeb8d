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
//! A worker can be made to end with its task ([`Pool::doom`]): its note gets a mark, unless it has
//! cleared the note, and so done the task, before. A worker whose note is marked takes nothing more,
//! so whoever marked it can kill it, and knows that no other task goes with it. A task that
//! nobody has taken is taken back in the queue itself ([`Pool::withdraw`]): it gets another tag
//! there, and who takes it drops it.
//!
//! Numbers count the tasks ever submitted, wrapping; a result carries its task's number.

mod inbox;

use std::time::Duration;

use crate::channel::{Brief, EnvelopeBox, Put, Queue, QueueOptions, Taken};
use crate::crash;
use crate::error::Result;
use crate::os::clock::{self, Deadline};
use crate::primitive::Ordering;
use crate::shm::{Envelope, Family, Handle, Kind, Ref, family};
use crate::sync::{Patience, Population, Stamp, Wait};

pub use inbox::{Arrival, Inbox, Next, Order};

/// Bytes of a worker's line on the board.
///
/// | offset | field  | written by                  | meaning                                        |
/// |-------:|--------|-----------------------------|------------------------------------------------|
/// |      0 | note   | the worker; who replaces it | two words: the task that it runs (see `shm::note`) |
/// |        |        | who dooms it                | a mark on the note: it must not take another       |
/// |     16 | `DONE` | the worker                  | tasks done by all workers of this line         |
/// |     24 | `STAGE`| the worker; who replaces it | see [`Stage`]                                  |
/// |     32 | `SINCE`| the worker                  | when it took its task, on the clock; 0: unset  |
const LINE: u64 = 64;
const DONE: u64 = 16;
const STAGE: u64 = 24;
const SINCE: u64 = 32;

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Stage {
    /// It was started, or is about to be.
    Starting = 0,
    /// It is making ready, by what its pool has told it to do first.
    Preparing = 1,
    /// It has come to take tasks.
    Ready = 2,
}

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
    /// Whether it is worth it to stay awake for one's own result.
    eager: Patience,
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
    /// What the worker with this line has to say about its end, which is near.
    LastWords {
        /// Its line.
        worker: u32,
        /// What was sent.
        envelope: Envelope,
    },
    /// Somebody wants the collector to look around.
    Nudge,
}

/// Tags of what lies in the queue of results.
const RESULT: u8 = 0;
const RETIRED: u8 = 1;
const NUDGE: u8 = 2;
const WORDS: u8 = 3;

/// Tags of what lies in the queue of tasks.
const TASK: u8 = 0;
const WITHDRAWN: u8 = 1;

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
            eager: Patience::new(),
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
            eager: Patience::new(),
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

    /// Lines on the board: workers at once, at most.
    pub fn lines(&self) -> u32 {
        self.lines
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
        send(&self.tasks, TASK, 0, task)
    }

    /// Takes a task for the worker with this line, if there is one; short ones go into `buffer`.
    ///
    /// # Errors
    /// No memory to hold the task: it stays.
    pub fn take(&self, worker: u32, buffer: &mut Vec<u8>) -> Result<Option<Delivery>> {
        let start = buffer.len();
        let line = self.line(worker);
        loop {
            let delivery = match self.tasks.try_take_noted(buffer, line)? {
                Taken::Empty => return Ok(None),
                Taken::Bytes { tag: WITHDRAWN, .. } => {
                    buffer.truncate(start);
                    None
                }
                Taken::Envelope { tag: WITHDRAWN, .. } => None,
                Taken::Bytes { number, .. } => {
                    buffer.drain(start..buffer.len().min(start + 8));
                    Some(Delivery::Short { number })
                }
                Taken::Envelope {
                    number,
                    envelope: EnvelopeBox(envelope),
                    ..
                } => Some(Delivery::Long { number, envelope }),
            };
            if delivery.is_some() {
                let now = clock::now().as_nanos() as u64;
                self.family()
                    .word(line + SINCE)
                    .store(now, Ordering::Relaxed);
                return Ok(delivery);
            }
            // Of one that was withdrawn.
            let _ = self.family().withdraw_note(line);
        }
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

    /// Reports the result of task `number`, which the worker with this line has run: whether it may
    /// take another one.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was reported, and the note stands.
    pub fn finish(&self, worker: u32, number: u32, result: Parcel<'_>) -> Result<bool> {
        send(&self.results, RESULT, number, result)?;
        crash::point("pool: result put");
        let line = self.line(worker);
        let done = self.family().word(line + DONE);
        done.store(done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        crash::point("pool: task counted");
        // Before the note: it must not be taken for the next task's.
        self.family().word(line + SINCE).store(0, Ordering::Relaxed);
        // After the result has been committed: a worker that dies in between has lost nothing.
        let may_go_on = self.family().clear_note(line, number);
        crash::point("pool: note cleared");
        Ok(may_go_on)
    }

    /// Takes back the tasks whose number is `wanted`, as far as nobody has taken them: nobody will
    /// run them. The others are running, or done.
    pub fn withdraw(&self, wanted: impl Fn(u32) -> bool) {
        self.tasks.retag(WITHDRAWN, wanted);
    }

    /// The task that the worker with this line is running, and since when on the clock
    /// ([`clock::now`]), if it has come to write that down.
    pub fn running(&self, worker: u32) -> Option<(u32, Option<Duration>)> {
        let line = self.line(worker);
        loop {
            let before = self.family().noted(line);
            let time = self.family().word(line + SINCE).load(Ordering::Acquire);
            if self.family().noted(line) == before {
                let known = (time != 0).then(|| Duration::from_nanos(time));
                return before.map(|number| (number, known));
            }
        }
    }

    /// Has the worker with this line take nothing more after task `number`. `false`: it has done
    /// the task, or never got it. After `true` the caller kills the worker.
    pub fn doom(&self, worker: u32, number: u32) -> bool {
        // No worker is in the middle of taking a task then, so a note means what it says.
        let _ = self.tasks.counts();
        self.family().mark_note(self.line(worker), number)
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
                tag: WORDS,
                word,
                envelope: EnvelopeBox(envelope),
                ..
            } => Some(Delivery::LastWords {
                worker: word as u32,
                envelope,
            }),
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

    /// Stays awake for a moment, if that may be worth it, and takes the result of task `number` if it
    /// comes next, is brief and, by its first byte, `wanted`. For one who has to wait for it anyway:
    /// what does not come this way comes to the collector.
    pub fn collect_own(&self, number: u32, wanted: impl FnOnce(u8) -> bool) -> Option<Brief> {
        if !self.eager.outlasts(|| self.results.may_have_items()) {
            return None;
        }
        let mut found = Brief::new();
        let is_own = self.results.try_take_wanted(&mut found, |tag, message| {
            let (prefix, rest) = message.as_slice().split_at_checked(8).unwrap_or_default();
            tag == RESULT
                && prefix == u64::from(number).to_le_bytes()
                && rest.first().is_some_and(|byte| wanted(*byte))
        });
        if !is_own {
            return None;
        }
        Brief::of(&found.as_slice()[8..])
    }

    /// Tells the collector what the worker with this line has to say about its end.
    ///
    /// # Errors
    /// The arena is at its ceiling: nothing was said.
    pub fn last_words(&self, worker: u32, words: Envelope) -> Result<()> {
        send(&self.results, WORDS, worker, Parcel::Long(words)).map(|_| ())
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

    /// Waits until there may be a result. Sleeps at once: who is in a hurry stays awake in
    /// [`Pool::collect_own`].
    pub fn wait_result(&self, deadline: Deadline) -> Wait {
        self.results.sleep_for_items(deadline)
    }

    /// The worker with this line is dead, and all results were collected after it died: the task
    /// that it was running, which is lost unless its result is among those (the worker then died
    /// before it could clear its note). The line is then free for another worker.
    pub fn lost(&self, worker: u32) -> Option<u32> {
        // If the worker died while it held the queue's lock, this finishes what it had begun.
        let (_, taken) = self.tasks.counts();
        let line = self.line(worker);
        self.family().word(line + SINCE).store(0, Ordering::Relaxed);
        let noted = self.family().withdraw_note(line);
        // The note comes first, so a task that was noted may be in the queue still.
        noted.filter(|number| taken.wrapping_sub(*number).cast_signed() > 0)
    }

    /// How many tasks the workers of this line have done.
    pub fn done(&self, worker: u32) -> u64 {
        self.family()
            .word(self.line(worker) + DONE)
            .load(Ordering::Relaxed)
    }

    /// Says how far the worker with this line has come.
    pub fn enter(&self, worker: u32, stage: Stage) {
        self.family()
            .word(self.line(worker) + STAGE)
            .store(stage as u64, Ordering::Release);
        crash::point("pool: worker has come");
    }

    /// How far the worker with this line has come.
    pub fn stage(&self, worker: u32) -> Stage {
        match self
            .family()
            .word(self.line(worker) + STAGE)
            .load(Ordering::Acquire)
        {
            0 => Stage::Starting,
            1 => Stage::Preparing,
            _ => Stage::Ready,
        }
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

/// Puts a message with a number in front of it (for a task, which the queue itself counts,
/// the number says nothing).
fn send(queue: &Queue, tag: u8, number: u32, parcel: Parcel<'_>) -> Result<u32> {
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
                match queue.try_put(tag, &[&prefix, bytes])? {
                    Put::Done(number) => return Ok(number),
                    Put::Full => Parcel::Short(bytes),
                }
            }
            Parcel::Long(envelope) => match queue.try_put_envelope(tag, word, envelope)? {
                Ok(number) => return Ok(number),
                Err(envelope) => Parcel::Long(envelope),
            },
        };
        queue.check_open()?;
        let _ = queue.wait_space(len, Deadline::NEVER);
    }
}
