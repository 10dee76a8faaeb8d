//! Two processes count words for a third: a queue there, a queue back.
//!
//! `cargo run -p sidestep --example queue_between_processes`

use sidestep::channel::QueueOptions;
use sidestep::process::Child;

const LINES: [&str; 3] = [
    "the quick brown fox",
    "jumps over",
    "the lazy dog that sleeps",
];

/// Has the lines counted by two children: words in all.
pub fn story() -> sidestep::Result<String> {
    let lines = QueueOptions::new().create()?;
    let counts = QueueOptions::new().create()?;

    // A child starts with everything that its parent shares.
    let counter = || -> sidestep::Result<()> {
        // `get` ends with `None` when the queue is closed and empty.
        while let Some(line) = lines.get(None)? {
            let words = String::from_utf8_lossy(&line).split_whitespace().count();
            counts.put(&(words as u64).to_le_bytes())?;
        }
        Ok(())
    };
    let mut children = Vec::new();
    for _ in 0..2 {
        children.push(Child::fork(|| i32::from(counter().is_err()))?);
    }

    for line in LINES {
        lines.put(line.as_bytes())?;
    }
    lines.close();
    for child in &mut children {
        child.wait()?;
    }
    // What was put is there, although those who put it have ended.
    let mut words = 0;
    while !counts.is_empty() {
        let count = counts.get(None)?.unwrap_or_default();
        words += count.first().copied().unwrap_or_default();
    }
    Ok(format!("{words} words in {} lines", LINES.len()))
}

#[allow(dead_code)] // a test includes this file
fn main() -> sidestep::Result<()> {
    println!("{}", story()?);
    Ok(())
}
