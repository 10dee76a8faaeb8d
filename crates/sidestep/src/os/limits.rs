//! The limits that the kernel keeps for a process, and what to say to who has run into one.
#![allow(unsafe_code)]

use std::fmt::Write;
use std::io;

use super::call::{Call, call};

/// What a process has a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of its address space (`RLIMIT_AS`).
    AddressSpace,
    /// Bytes of a file that it makes larger (`RLIMIT_FSIZE`).
    FileSize,
    /// Open descriptors (`RLIMIT_NOFILE`).
    Descriptors,
    /// Processes and threads of its user (`RLIMIT_NPROC`).
    Processes,
}

/// The soft limit, if there is one.
///
/// # References
/// getrlimit(2)
pub fn limit(resource: Resource) -> Option<u64> {
    let number = match resource {
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::Descriptors => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
    };
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    call(Call::Getrlimit, || {
        // SAFETY: `limit` is a live rlimit.
        unsafe { libc::getrlimit(number, &raw mut limit) }
    })
    .ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Which limit a refusal is about and what to do, to be said behind it; empty if there is nothing
/// to say.
pub fn way_out(refusal: &io::Error) -> String {
    let mut text = String::new();
    let _ = match refusal.raw_os_error() {
        Some(libc::EMFILE) => {
            let most = limit(Resource::Descriptors).unwrap_or_default();
            write!(
                text,
                "; this process may have {most} descriptors (RLIMIT_NOFILE): close some, or raise \
                 the limit (ulimit -n)"
            )
        }
        Some(libc::ENFILE) => write!(
            text,
            "; the machine has no more files to open: close some, or raise fs.file-max"
        ),
        Some(libc::EFBIG) => {
            let most = limit(Resource::FileSize).unwrap_or_default();
            write!(
                text,
                "; this process may have files of {most} bytes (RLIMIT_FSIZE): raise the limit \
                 (ulimit -f)"
            )
        }
        Some(libc::ENOMEM) => match limit(Resource::AddressSpace) {
            Some(most) => write!(
                text,
                "; this process may have {most} bytes of address space (RLIMIT_AS): free some, or \
                 raise the limit (ulimit -v)"
            ),
            None => write!(text, "; the machine has no more memory: end something"),
        },
        _ => Ok(()),
    };
    text
}

/// As [`way_out`], where it is another process that was refused.
pub fn way_out_of_processes(refusal: &io::Error) -> String {
    if refusal.raw_os_error() != Some(libc::EAGAIN) {
        return way_out(refusal);
    }
    let most = match limit(Resource::Processes) {
        Some(most) => format!("this user may have {most} processes and threads (RLIMIT_NPROC)"),
        None => "the machine or the control group may have no more processes (pids.max)".into(),
    };
    format!("; {most}: let some end, or raise the limit (ulimit -u, pids.max)")
}
