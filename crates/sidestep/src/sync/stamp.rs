//! Who holds a word: the identity of a member process, small enough for a lock word.

/// A member process of the family, past or present: its slot and the slot's generation.
///
/// | bits   | meaning                                                         |
/// |-------:|-----------------------------------------------------------------|
/// | 0..16  | slot number, from 1; 0 is nobody                                |
/// | 16..30 | generation of the slot, so that a successor is somebody else    |
/// | 30..32 | zero: free for the flags of the word that the stamp is stored in |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(u32);

impl Stamp {
    /// Nobody.
    pub const NOBODY: Self = Self(0);
    /// The bits that a stamp may use.
    pub const MASK: u32 = (1 << 30) - 1;

    /// The stamp of slot number `slot` (from 1) in its generation `generation`.
    pub fn new(slot: u32, generation: u64) -> Self {
        Self((slot & 0xffff) | (((generation & 0x3fff) as u32) << 16))
    }

    /// The stamp in the low bits of a word; the flags are left aside.
    pub fn of_word(word: u32) -> Self {
        Self(word & Self::MASK)
    }

    /// The word for this stamp.
    pub fn word(self) -> u32 {
        self.0
    }

    /// Slot number, from 1; 0 for nobody.
    pub fn slot(self) -> u32 {
        self.0 & 0xffff
    }

    /// The generation's low bits, as kept in a stamp.
    pub fn generation(self) -> u64 {
        u64::from(self.0 >> 16)
    }
}

/// What is known of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its process id, in its own pid namespace; 0 where it is not known.
    pub pid: u32,
    /// Whether it said that it was leaving in order.
    pub orderly: bool,
    /// Its exit code, or minus the signal that ended it; `None` where nobody could tell any more.
    pub exitcode: Option<i32>,
}

/// Who lives: what the lock words need to know about the processes of the family.
pub trait Population {
    /// The calling process.
    fn me(&self) -> Stamp;
    /// Whether that process has ended, killed or not. May take a system call or a few.
    fn is_dead(&self, stamp: Stamp) -> bool;
    /// Cleans up after dead processes, so that the locks they held learn of it. The caller holds
    /// no lock.
    fn bury(&self);
}
