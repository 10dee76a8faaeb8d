//! The compact encoding: one tag byte per value, then its operand, numbers little-endian.
//!
//! | tag              | operand                                   | then                             |
//! |------------------|-------------------------------------------|----------------------------------|
//! | `NONE`...`FALSE` |                                           |                                  |
//! | `INT_n`          | `n` bytes, two's complement               |                                  |
//! | `FLOAT`          | the 8 bytes of the IEEE 754 double        |                                  |
//! | `STR_n`          | length in `n` bytes                       | that many bytes of UTF-8         |
//! | `BYTES_n`        | length in `n` bytes                       | that many bytes                  |
//! | `BYTEARRAY_4`    | length in 4 bytes                         | that many bytes                  |
//! | `..._BUFFER`     |                                           | contents are the next buffer     |
//! | `TUPLE_n`        | number of items in `n` bytes              | the items                        |
//! | `LIST_n`         | number of items in `n` bytes              | the items                        |
//! | `NAME_1`         | length in one byte, below 24              | as `STR_1`; it comes often       |
//! | `DICT_1`         | number of entries in one byte             | key, value, key, value, ...      |
//! | `NUMBERS`        | what they are in, what they are, number   | that many numbers, 4 or 8 bytes  |
//! | `GLOBAL`         |                                           | two names: a module, and in it   |
//!
//! Sender and receiver are the same build, so the numbers may change between versions.

pub(super) const NONE: u8 = 0x01;
pub(super) const TRUE: u8 = 0x02;
pub(super) const FALSE: u8 = 0x03;
pub(super) const INT_1: u8 = 0x04;
pub(super) const INT_4: u8 = 0x05;
pub(super) const INT_8: u8 = 0x06;
pub(super) const FLOAT: u8 = 0x07;
pub(super) const STR_1: u8 = 0x08;
pub(super) const STR_4: u8 = 0x09;
pub(super) const STR_BUFFER: u8 = 0x0a;
pub(super) const BYTES_1: u8 = 0x0b;
pub(super) const BYTES_4: u8 = 0x0c;
pub(super) const BYTES_BUFFER: u8 = 0x0d;
pub(super) const BYTEARRAY_4: u8 = 0x0e;
pub(super) const BYTEARRAY_BUFFER: u8 = 0x0f;
pub(super) const TUPLE_1: u8 = 0x10;
pub(super) const TUPLE_4: u8 = 0x11;
pub(super) const LIST_1: u8 = 0x12;
pub(super) const LIST_4: u8 = 0x13;
pub(super) const DICT_1: u8 = 0x14;
pub(super) const NAME_1: u8 = 0x15;

pub(super) const GLOBAL: u8 = 0x16;
pub(super) const NUMBERS: u8 = 0x17;

/// What numbers in a row are in.
pub(super) const IN_TUPLE: u8 = 0;
pub(super) const IN_LIST: u8 = 1;

/// What they are, with their width in bytes.
pub(super) const INTS_4: u8 = 4;
pub(super) const INTS_8: u8 = 8;
pub(super) const FLOATS_8: u8 = 0x88;

/// So many numbers of one kind in a container are written in a row.
pub(super) const NUMBERS_IN_A_ROW: core::ops::RangeInclusive<isize> = 16..=1 << 20;

/// The first byte of every pickle of protocol 2 and later.
pub(super) const PICKLE: u8 = 0x80;

/// Longest text that is remembered from message to message: keys of dictionaries and `NAME_1`.
pub(super) const MAX_NAME: usize = 23;

/// Containers inside containers inside ...: at most so many levels.
pub(super) const MAX_DEPTH: usize = 6;

/// Strings, byte strings and containers in one message. Beyond it pickle's memo pays: it keeps what
/// occurs twice shared and small.
pub(super) const MAX_OBJECTS: usize = 64;

/// Numbers, booleans and Nones in one message; these are not shared by pickle either.
pub(super) const MAX_SCALARS: usize = 4096;

/// Strings and byte strings of at least so many bytes must not occur twice in a message.
pub(super) const SHARED_BYTES: usize = 256;
