//! Messages of a few words, which travel without memory of their own on either side.

/// Longest brief message, in bytes.
pub const MOST: usize = 136;

/// A message of at most [`Brief::MOST`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Brief {
    bytes: [u8; MOST],
    len: usize,
}

impl Brief {
    /// Longest such message, in bytes.
    pub const MOST: usize = MOST;

    /// The first `len` of these bytes.
    #[inline]
    #[must_use]
    pub fn new(bytes: [u8; MOST], len: usize) -> Self {
        Self {
            bytes,
            len: len.min(MOST),
        }
    }

    /// A copy of a message that is short enough.
    #[inline]
    #[must_use]
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut bytes = [0; MOST];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self::new(bytes, message.len()))
    }

    /// The message.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The whole memory, of which the message is the beginning.
    #[inline]
    pub(crate) fn memory(&self) -> &[u8; MOST] {
        &self.bytes
    }
}
