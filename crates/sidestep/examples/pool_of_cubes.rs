//! A pool of processes that compute cubes, one of which does not survive.
//!
//! `cargo run -p sidestep --example pool_of_cubes`

use std::time::Duration;

use sidestep::os::clock::Deadline;
use sidestep::pool::{Delivery, Parcel, Pool};
use sidestep::process::Child;

/// The task that no worker survives.
const POISON: u64 = 13;

fn number_in(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Takes tasks until there are no more to come.
fn work(pool: &Pool, line: u32) -> sidestep::Result<()> {
    loop {
        let mut task = Vec::new();
        match pool.take(line, &mut task)? {
            Some(Delivery::Short { number }) => {
                let n = number_in(&task);
                if n == POISON {
                    let _ = sidestep::os::process::kill(std::process::id(), 9);
                }
                let cube = (n * n * n).to_le_bytes();
                pool.finish(line, number, Parcel::Short(&cube))?;
            }
            // Long tasks would come in envelopes; there are none here.
            Some(_) => {}
            None if pool.is_closed() => return Ok(()),
            None => {
                let _ = pool.wait_task(Deadline::NEVER);
                pool.pass_on_tasks();
            }
        }
    }
}

/// Has the first twenty numbers cubed by three workers.
pub fn story() -> sidestep::Result<String> {
    let pool = Pool::new(3)?;
    let start = |line| Child::fork(|| i32::from(work(&pool, line).is_err()));
    let mut workers = vec![start(0)?, start(1)?, start(2)?];
    for n in 0..20u64 {
        pool.submit(Parcel::Short(&n.to_le_bytes()))?;
    }

    let (mut sum, mut lost, mut open) = (0, None, 20);
    let mut result = Vec::new();
    while open > 0 {
        // Whoever has died by now: its results come first, then the board names what it ran.
        let mut dead = Vec::new();
        for (line, worker) in (0..).zip(&mut workers) {
            if worker.exit().is_none() && !worker.is_alive()? {
                dead.push(line);
            }
        }
        while let Some(Delivery::Short { .. }) = pool.collect(&mut result)? {
            sum += number_in(&result);
            result.clear();
            open -= 1;
        }
        for line in dead {
            if let Some(task) = pool.lost(line) {
                lost = Some(task);
                open -= 1;
            }
        }
        let _ = pool.wait_result(Deadline::after(Some(Duration::from_millis(10))));
    }
    pool.close();
    for worker in &mut workers {
        worker.wait()?;
    }
    let lost = lost.map_or("no task".into(), |task| format!("task {task}"));
    Ok(format!("the cubes add up to {sum}; {lost} was lost"))
}

#[allow(dead_code)] // a test includes this file
fn main() -> sidestep::Result<()> {
    println!("{}", story()?);
    Ok(())
}
