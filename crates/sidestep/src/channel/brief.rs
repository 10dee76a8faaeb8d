//! Messages of a few words, which travel without memory of their own on either side.
//!
//! They are made and read where they lie, and handed on by reference: to move one costs as much as
//! to send it.
#![allow(unsafe_code)]

use core::fmt;
use core::mem::MaybeUninit;

use crate::shm::Family;

const WORDS: usize = 17;

/// A message of at most [`Brief::MOST`] bytes.
///
/// Invariant: `len` is at most that, and the words up to there have been written.
#[derive(Clone, Copy)]
pub struct Brief {
    words: [MaybeUninit<u64>; WORDS],
    len: usize,
}

impl Brief {
    /// Longest such message, in bytes.
    pub const MOST: usize = 8 * WORDS;

    /// An empty one.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            words: [MaybeUninit::uninit(); WORDS],
            len: 0,
        }
    }

    /// A copy of a message that is short enough.
    #[must_use]
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut brief = Self::new();
        brief.set([], message).then_some(brief)
    }

    /// Becomes the message of these parts. False, and it is empty: they are too long.
    #[inline]
    #[must_use]
    pub fn set<const N: usize>(&mut self, first: [u8; N], rest: &[u8]) -> bool {
        self.len = 0;
        let len = N.saturating_add(rest.len());
        if len > Self::MOST {
            return false;
        }
        // The last word has an end that no byte of the message is written to.
        if let Some(last) = self.words[..len.div_ceil(8)].last_mut() {
            last.write(0);
        }
        let to = self.words.as_mut_ptr().cast::<u8>();
        // SAFETY: `len` bytes fit the words; neither part lies there, as `self` is borrowed alone.
        unsafe {
            to.copy_from_nonoverlapping(first.as_ptr(), N);
            to.add(N)
                .copy_from_nonoverlapping(rest.as_ptr(), rest.len());
        }
        self.len = len;
        true
    }

    /// Becomes the message of a byte and the first `len` bytes, at most 8, of `number`, little-endian.
    #[inline]
    pub fn set_number(&mut self, first: u8, number: u64, len: usize) {
        self.words[0].write((number << 8 | u64::from(first)).to_le());
        self.words[1].write((number >> 56).to_le());
        self.len = 1 + len.min(8);
    }

    /// The message.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the words up to `len` have been written.
        unsafe { core::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    /// Becomes the message of `len` bytes at `offset`, which was published and is the caller's up to
    /// the next multiple of 8.
    #[inline]
    pub(crate) fn load(&mut self, family: &Family, offset: u64, len: usize) {
        self.len = len.min(Self::MOST);
        family.read_words(offset, &mut self.words[..self.len.div_ceil(8)]);
    }

    /// Writes the message to `offset`, where the memory is the caller's up to the next multiple of 8.
    #[inline]
    pub(crate) fn store(&self, family: &Family, offset: u64) {
        let words = &self.words[..self.len.div_ceil(8)];
        // SAFETY: these words have been written.
        let words = unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len()) };
        family.write_words(offset, words);
    }
}

impl Default for Brief {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Brief").field(&self.as_slice()).finish()
    }
}
