//! The examples tell the stories that they promise.

mod common;

#[path = "../examples/pool_of_cubes.rs"]
mod pool_of_cubes;
#[path = "../examples/processes_and_a_lock.rs"]
mod processes_and_a_lock;
#[path = "../examples/queue_between_processes.rs"]
mod queue_between_processes;

fn main() {
    common::run(&[
        ("queue_between_processes", || {
            let story = queue_between_processes::story().unwrap();
            assert_eq!(story, "11 words in 3 lines");
        }),
        ("processes_and_a_lock", || {
            let story = processes_and_a_lock::story().unwrap();
            assert_eq!(
                story,
                "two processes counted to 2000\n\
                 the lock's owner was killed, and the lock recovered\n\
                 one more process makes 3000"
            );
        }),
        ("pool_of_cubes", || {
            let story = pool_of_cubes::story().unwrap();
            assert_eq!(story, "the cubes add up to 33903; task 13 was lost");
        }),
    ]);
}
