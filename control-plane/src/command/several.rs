//! Commands that are carried out together or not at all.

use super::{Command, Context, Decision, Rejection, decide};
use crate::config::{Change, Config};

/// Decides each command on what the ones before it leave. The record shown is that of the last one.
pub(super) fn decide_all(
    config: &Config,
    commands: &[Command],
    context: &Context,
) -> Result<Decision, Rejection> {
    let mut next = config.clone();
    let mut whole = Decision {
        change: Change::default(),
        record: None,
    };
    for (at, command) in commands.iter().enumerate() {
        let step = decide(&next, command, &context.child(at))?;
        next = next.evolve(&step.change, config.revision());
        let replaced = |change: &Change, key| change.puts.iter().any(|(put, _)| *put == key);
        whole
            .change
            .removes
            .retain(|key| !replaced(&step.change, *key));
        whole
            .change
            .puts
            .retain(|(key, _)| !replaced(&step.change, *key) && !step.change.removes.contains(key));
        whole.change.puts.extend(step.change.puts);
        whole.change.removes.extend(step.change.removes);
        whole.record = step.record;
    }
    Ok(whole)
}
