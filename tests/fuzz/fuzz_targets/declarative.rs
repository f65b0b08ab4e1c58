//! Declarative files. What a file makes of a workspace is written as a file that changes nothing more.

#![no_main]

use control_plane::command::{Context, batch};
use control_plane::config::Change;
use control_plane::declarative;
use fuzz::control::{NOW, config};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shared::entity::DEFAULT_WORKSPACE;
use shared::snapshot::Revision;
use uuid::Uuid;

fuzz_target!(|input: &str| {
    let Ok(Value::Object(document)) = declarative::decode(input) else {
        return;
    };
    let file = declarative::read(document);
    if !file.is_sound() {
        declarative::table(&declarative::general(&file));
    }
    let context = Context {
        now: NOW,
        id: Uuid::from_u128(1),
        seed: [Uuid::from_u128(2), Uuid::from_u128(3)],
    };
    let config = config();
    match batch::replace(&config.within(DEFAULT_WORKSPACE), &file.batch, &context) {
        Err(faults) => {
            declarative::table(&declarative::nested(&file, &faults));
            declarative::flattened(&file, &faults);
        }
        Ok(change) => {
            let next = config
                .evolve(&change, Revision(99))
                .within(DEFAULT_WORKSPACE);
            let text = declarative::encode(&Value::Object(declarative::write(&next)));
            let again = declarative::decode(&text.expect("every configuration can be written"));
            let Ok(Value::Object(again)) = again else {
                panic!("what was written is no document")
            };
            let again = declarative::read(again);
            assert!(again.is_sound(), "what was written can be read");
            let change = batch::replace(&next, &again.batch, &context);
            assert_eq!(
                change,
                Ok(Change::default()),
                "what was written is something else"
            );
        }
    }
});
