//! The only callers of the kernel. Safe signatures go out; another platform is one more folder.

pub mod atfork;
pub mod call;
pub mod clock;
pub mod doorbell;
pub mod futex;
pub mod lifeline;
pub mod limits;
pub mod memory;
pub mod oom;
pub mod probe;
pub mod process;
pub mod robust;
pub mod signals;
pub mod socket;
