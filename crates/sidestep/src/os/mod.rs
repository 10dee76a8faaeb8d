//! The only callers of the kernel.
pub mod socket;
