//! The processes of nodes that have streams here, or had one a moment ago.

use std::collections::HashMap;

use crate::config_sync::flights::By;
use crate::fleet::Process;

/// Each process, and how many streams it has.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: HashMap<Process, Known>,
    given: u64,
}

#[derive(Debug)]
struct Known {
    number: u64,
    streams: usize,
    /// How often its last stream has ended.
    left: u64,
}

impl Processes {
    /// A new stream of `process`.
    pub(super) fn take(&mut self, process: &Process) -> By {
        self.given += 1;
        let number = self.given;
        let first = Known {
            number,
            streams: 0,
            left: 0,
        };
        let process = self.known.entry(process.clone()).or_insert(first);
        process.streams += 1;
        By {
            process: process.number,
            stream: number,
        }
    }

    /// One of its streams has ended: which end that is of a last one, if it was the last.
    pub(super) fn leave(&mut self, by: By) -> Option<u64> {
        let mut processes = self.known.values_mut();
        let process = processes.find(|process| process.number == by.process)?;
        process.streams = process.streams.saturating_sub(1);
        if process.streams > 0 {
            return None;
        }
        process.left += 1;
        Some(process.left)
    }

    /// Forgets a process, unless it has been back since it `left`; whether it is forgotten.
    pub(super) fn end(&mut self, number: u64, left: u64) -> bool {
        let before = self.known.len();
        let is_gone = |process: &Known| {
            process.number == number && process.streams == 0 && process.left == left
        };
        self.known.retain(|_, process| !is_gone(process));
        self.known.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stays_the_same_while_it_comes_back_in_time() {
        let mut processes = Processes::default();
        let named = |run: &str| Process {
            node: "node".to_owned(),
            run: run.to_owned(),
        };
        let first = processes.take(&named("a"));
        let other = processes.take(&named("b"));
        assert_ne!(first.process, other.process);
        let second = processes.take(&named("a"));
        assert_eq!(first.process, second.process);
        assert_ne!(first.stream, second.stream);
        assert_eq!(processes.leave(first), None);
        assert_eq!(processes.leave(second), Some(1));
        let third = processes.take(&named("a"));
        assert_eq!(third.process, first.process);
        assert!(!processes.end(first.process, 1), "it is back");
        assert_eq!(processes.leave(third), Some(2));
        assert!(!processes.end(first.process, 1), "it has been back");
        assert!(processes.end(first.process, 2));
        assert!(!processes.end(first.process, 2), "once");
        assert_ne!(processes.take(&named("a")).process, first.process);
    }
}
