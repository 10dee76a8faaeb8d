//! Where things lie in the arena.
//!
//! ```text
//! 0         header          two pages: identity, books of the allocator, journal
//! 8 KiB     process slots   65,535 of 256 bytes; only those ever used take memory
//! 16 MiB    blocks          each with a header of 64 bytes; up to the end of the file
//! ```
//!
//! Everything that the books say is a 64-bit word, named by its offset from the arena's start.

/// The smallest unit that the file grows by, in bytes.
pub const EXTENT: u64 = 16 << 20;
/// First byte of the first block.
pub const HEAP: u64 = 16 << 20;
/// Most processes at once.
pub const SLOTS: u32 = 65_535 - 32;

/// Offsets of the header's words.
///
/// | offset | field            | written by                | meaning                                    |
/// |-------:|------------------|---------------------------|--------------------------------------------|
/// |      0 | `MAGIC`          | creator, last, once       | this is an arena, and it is ready           |
/// |      8 | `REVISION`       | creator, once             | layout; a stranger is refused               |
/// |     16 | `RESERVE`        | creator, once             | bytes of address space that members map     |
/// |     24 | `LIMIT`          | creator, once             | ceiling of `USED` in bytes                  |
/// |     32 | `LEDGER`         | see `sync::Mutex`         | the lock of all the books                   |
/// |     40 | `JOURNAL_LEN`    | holder of the ledger      | words of a committed transaction; 0: none   |
/// |     48 | `FILE_END`       | transaction               | size of the file in bytes, never falls      |
/// |     56 | `TOP`            | transaction               | end of the last block                       |
/// |     64 | `USED`           | transaction               | bytes of blocks that (may) hold memory      |
/// |     72 | `WARM`           | transaction               | of these, bytes of free blocks that could be given back |
/// |     80 | `DOOMED`         | transaction               | first of the objects to be taken apart      |
/// |     88 | `SLOTS_HIGH`     | who takes a slot, atomic max | highest slot ever used                   |
/// |     96 | `SMALL`          | transaction               | of these, bytes of free blocks too small to be given back |
/// |    104 | `LIVE_BLOCKS`    | transaction               | blocks in use                               |
/// |    112 | `COLD_REST`      | transaction               | bytes of free blocks that could not be given back with their pages |
/// |    120 | `WARM_MOST`      | transaction               | how much of `WARM` is kept (see `alloc`)    |
/// |    128 | `GROWN_CHECK`    | transaction               | `USED` when headroom was last looked at     |
/// |    512 | `JOURNAL`        | holder of the ledger      | pairs of offset and value                   |
/// |   2048 | `FREE_LISTS`     | transaction               | per size class the first free warm block    |
/// |   4096 | `COLD_LISTS`     | transaction               | the same for blocks whose pages went back   |
pub mod header {
    #![allow(missing_docs)]
    pub const MAGIC: u64 = 0;
    pub const REVISION: u64 = 8;
    pub const RESERVE: u64 = 16;
    pub const LIMIT: u64 = 24;
    pub const LEDGER: u64 = 32;
    pub const JOURNAL_LEN: u64 = 40;
    pub const FILE_END: u64 = 48;
    pub const TOP: u64 = 56;
    pub const USED: u64 = 64;
    pub const WARM: u64 = 72;
    pub const DOOMED: u64 = 80;
    pub const SLOTS_HIGH: u64 = 88;
    pub const SMALL: u64 = 96;
    pub const LIVE_BLOCKS: u64 = 104;
    pub const COLD_REST: u64 = 112;
    pub const WARM_MOST: u64 = 120;
    pub const GROWN_CHECK: u64 = 128;
    pub const JOURNAL: u64 = 512;
    pub const FREE_LISTS: u64 = 2048;
    pub const COLD_LISTS: u64 = 4096;
    /// Where the header's words end and the slots begin.
    pub const END: u64 = 8192;
}

/// Most words that one transaction writes.
pub const JOURNAL_WORDS: usize = 96;

/// Offsets inside a process slot.
///
/// | offset | field      | written by                | meaning                                           |
/// |-------:|------------|---------------------------|---------------------------------------------------|
/// |      0 | `STATE`    | one swap by whoever moves it on | state in bits 0..8, generation in 8..32, who it is above |
/// |     16 | `STARTED`  | its process               | start time in ticks since boot; 0: not known      |
/// |     24 | `ORDERLY`  | its process, at its end   | 1: it is leaving in order                         |
/// |     32 | `TABLE`    | transaction               | first chunk of its table of references            |
/// |     48 | `ARMED`    | its process               | 1: its main thread holds `WITNESS`                |
/// |     56 | `WITNESS_READY` | first user of the slot | 1: `WITNESS` is initialised, for ever            |
/// |     64 | `WITNESS`  | libc, kernel              | robust word held for life by the main thread      |
/// |    128 | `TOOK`     | its process; who takes a dead one's mutex over | what it took last: see `note` |
pub mod slot {
    #![allow(missing_docs)]
    pub const BYTES: u64 = 256;
    pub const STATE: u64 = 0;
    pub const STARTED: u64 = 16;
    pub const ORDERLY: u64 = 24;
    pub const TABLE: u64 = 32;
    pub const ARMED: u64 = 48;
    pub const WITNESS_READY: u64 = 56;
    pub const WITNESS: u64 = 64;
    /// Two words, on a line of their own.
    pub const TOOK: u64 = 128;
}

/// Offset of slot number `number`, from 1.
pub fn slot_at(number: u32) -> u64 {
    header::END + u64::from(number - 1) * slot::BYTES
}

/// Offsets inside a block, from its start; its payload follows the header.
///
/// | offset | field        | written by  | meaning                                              |
/// |-------:|--------------|-------------|------------------------------------------------------|
/// |      0 | `GENERATION` | transaction | grows by one each time the block is freed            |
/// |      8 | `KIND`       | transaction | what it is; 0: free                                  |
/// |     16 | `CLASS`      | transaction, once | size class                                     |
/// |     24 | `REFS`       | transaction | references by tables, messages and other objects     |
/// |     32 | `LINK`       | transaction | next free, or next doomed block                      |
/// |     40 | `MEMORY`     | transaction | 0: untouched zeros, 1: was used, 2: given back, zeros again |
pub mod block {
    #![allow(missing_docs)]
    pub const GENERATION: u64 = 0;
    pub const KIND: u64 = 8;
    pub const CLASS: u64 = 16;
    pub const REFS: u64 = 24;
    pub const LINK: u64 = 32;
    pub const MEMORY: u64 = 40;
    /// Where the payload begins.
    pub const HEADER: u64 = 64;
}

/// Size classes: four for each doubling, from 128 bytes (header included).
pub mod class {
    /// Number of classes.
    pub const COUNT: u64 = 132;

    /// Bytes of a block of class `class`, header included.
    pub fn bytes(class: u64) -> u64 {
        let unit = 128u64 << (class / 4);
        (unit + unit / 4 * (class % 4)).next_multiple_of(64)
    }

    /// The smallest class with room for `bytes`, header included.
    pub fn for_bytes(wanted: u64) -> Option<u64> {
        let mut class = if wanted <= 128 {
            0
        } else {
            u64::from((wanted / 128).ilog2()) * 4
        };
        while class < COUNT && bytes(class) < wanted {
            class += 1;
        }
        (class < COUNT).then_some(class)
    }
}

const _: () = {
    assert!(header::JOURNAL + JOURNAL_WORDS as u64 * 16 <= header::FREE_LISTS);
    assert!(header::FREE_LISTS + class::COUNT * 8 <= header::COLD_LISTS);
    assert!(header::COLD_LISTS + class::COUNT * 8 <= header::END);
    assert!(header::END + SLOTS as u64 * slot::BYTES <= HEAP);
    assert!(slot::WITNESS + size_of::<libc::pthread_mutex_t>() as u64 <= slot::TOOK);
    assert!(slot::TOOK + 16 <= slot::BYTES);
};
