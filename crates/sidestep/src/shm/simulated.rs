//! Worlds for `shuttle`: an arena, and processes that join it, each with a mapping and a table of
//! its own. See [`crate::primitive`].
#![allow(unsafe_code, clippy::missing_panics_doc)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::family::Family;
use crate::error::{Error, Result};
use crate::primitive::{be_born, begin, end, is_ghost, live, process};

/// The process that has made the arena; the others have aliases of its mapping.
const FIRST: u32 = 1;

thread_local! {
    /// The arena as each process sees it. They stay until the next world begins, since tasks that
    /// the scheduler gave up may still refer to them.
    static FAMILIES: RefCell<BTreeMap<u32, &'static Family>> = const { RefCell::new(BTreeMap::new()) };
}

fn enter(family: Family) {
    let family = Box::leak(Box::new(family));
    FAMILIES.with_borrow_mut(|families| families.insert(process::pid(), family));
}

/// The calling process's family.
pub fn existing() -> Option<&'static Family> {
    FAMILIES.with_borrow(|families| families.get(&process::pid()).copied())
}

/// As [`existing`]; the process becomes a member.
///
/// # Errors
/// The caller is no process of a world.
pub fn family() -> Result<&'static Family> {
    let family = existing().ok_or(Error::Foreign("the caller is no process of a world"))?;
    family.register()?;
    Ok(family)
}

/// A process of the world.
pub struct Process(shuttle::thread::JoinHandle<bool>);

impl Process {
    /// A process that joins the family and does `work`. With `steps` it is killed after so many.
    pub fn start(steps: Option<u32>, work: impl FnOnce() + Send + 'static) -> Self {
        let arena = existing().and_then(|family| family.alias().ok());
        Self(shuttle::thread::spawn(move || {
            be_born(steps);
            enter(arena.expect("a process starts another"));
            live(|| {
                family().expect("there is a slot");
                work();
                if let Some(family) = existing() {
                    family.leave();
                }
            })
        }))
    }

    /// Waits for its end: whether it did all its work. What it left behind is cleaned up.
    pub fn join(self) -> bool {
        let lived = self.0.join().expect("the process panicked");
        if let Some(family) = existing() {
            family.clean_dead();
        }
        lived
    }
}

/// Runs `scenario` as the first process of a new world.
pub fn world(scenario: impl FnOnce()) {
    end();
    FAMILIES.with_borrow_mut(|families| {
        for (pid, family) in std::mem::take(families) {
            // SAFETY: made by `enter`, from a box; its world is over, and with it every user.
            let family = unsafe { Box::from_raw(std::ptr::from_ref(family).cast_mut()) };
            if pid != FIRST {
                family.drop_alias();
            }
        }
    });
    let arena = Family::found().expect("an arena");
    begin();
    be_born(None);
    enter(arena);
    live(scenario);
    assert!(!is_ghost());
    end();
}
