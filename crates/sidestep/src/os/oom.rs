//! How many processes the kernel has killed for want of memory.

use super::call::text;

/// Processes that the kernel has killed since boot as memory ran out: those of this process's
/// memory control group, or, where that does not count them, of the whole machine. 0 if unknown.
///
/// If it has risen while a child died by SIGKILL, the kernel has probably killed the child.
///
/// # References
/// `Documentation/admin-guide/cgroup-v2.rst`, `memory.events`;
/// `Documentation/admin-guide/cgroup-v1/memory.rst`, `memory.oom_control`; proc(5), `/proc/vmstat`.
pub fn kills() -> u64 {
    let read = |path: &str| text(path).ok();
    read("/proc/self/cgroup")
        .and_then(|groups| in_group(&groups, read))
        .or_else(|| counter(&read("/proc/vmstat")?))
        .unwrap_or(0)
}

/// The counter of the memory control group among `groups`, the contents of `/proc/[pid]/cgroup`.
fn in_group(groups: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (tree, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => return None,
        };
        // A container sees its own group as the root of the tree.
        [path, ""].iter().find_map(|path| {
            let path = path.trim_end_matches('/');
            counter(&read(&format!("{tree}{path}/{file}"))?)
        })
    })
}

/// The value of `oom_kill` in lines of a name and a number.
fn counter(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION_1: &str =
        "9:name=systemd:/\n4:memory:/jobs/one\n3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n";
    const VERSION_2: &str = "0::/user.slice/session-1.scope\n";
    const EVENTS: &str = "low 0\nhigh 3\nmax 91\noom 5\noom_kill 4\noom_group_kill 1\n";
    const CONTROL: &str = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";

    fn only<'t>(path: &'t str, text: &'t str) -> impl Fn(&str) -> Option<String> + 't {
        move |asked| (asked == path).then(|| text.to_owned())
    }

    #[test]
    fn the_counter_stands_alone_on_its_line() {
        assert_eq!(counter(EVENTS), Some(4));
        assert_eq!(counter(CONTROL), Some(7));
        assert_eq!(
            counter("oom_kill_disable 0\nunder_oom 0\n"),
            None,
            "before 4.13"
        );
        assert_eq!(counter("drop_slab 0\noom_kill 12\nnuma 5\n"), Some(12));
        assert_eq!(counter("oom_kill many\n"), None);
    }

    #[test]
    fn a_group_of_version_1() {
        let path = "/sys/fs/cgroup/memory/jobs/one/memory.oom_control";
        assert_eq!(in_group(VERSION_1, only(path, CONTROL)), Some(7));
    }

    #[test]
    fn a_group_of_version_2() {
        let path = "/sys/fs/cgroup/user.slice/session-1.scope/memory.events";
        assert_eq!(in_group(VERSION_2, only(path, EVENTS)), Some(4));
    }

    #[test]
    fn a_container_whose_group_is_the_root_of_what_it_sees() {
        let path = "/sys/fs/cgroup/memory/memory.oom_control";
        assert_eq!(in_group(VERSION_1, only(path, CONTROL)), Some(7));
        let path = "/sys/fs/cgroup/memory.events";
        assert_eq!(in_group(VERSION_2, only(path, EVENTS)), Some(4));
    }

    #[test]
    fn no_group_that_counts() {
        assert_eq!(in_group("3:cpuset:/\n", |_| Some(EVENTS.to_owned())), None);
        assert_eq!(in_group(VERSION_1, |_| None), None);
    }

    #[test]
    fn here_it_is_some_number() {
        assert!(kills() <= kills());
    }
}
