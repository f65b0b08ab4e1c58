//! Which of several configurations of a plugin runs.

use serde_json::json;

use super::*;

const ROUTE: u128 = 1;
const SERVICE: u128 = 2;
const CONSUMER: u128 = 3;
const OTHER: u128 = 9;

/// A plugin with these scopes; 0 stands for none.
fn plugin(id: u128, route: u128, service: u128, consumer: u128) -> Plugin {
    let reference = |id: u128| (id != 0).then(|| json!({"id": Uuid::from_u128(id)}));
    let fields = json!({
        "id": Uuid::from_u128(id), "created_at": 1, "updated_at": 1, "name": "acl",
        "route": reference(route), "service": reference(service), "consumer": reference(consumer),
        "config": {"allow": ["a"]},
    });
    serde_json::from_value(fields).unwrap()
}

fn route() -> Route {
    let fields = json!({
        "id": Uuid::from_u128(ROUTE), "created_at": 1, "updated_at": 1, "paths": ["/"],
        "service": {"id": Uuid::from_u128(SERVICE)},
    });
    serde_json::from_value(fields).unwrap()
}

fn assemble(plugins: &[Plugin], faults: &mut Vec<CompileFault>) -> Assembly {
    let (workspaces, room) = (Workspaces::default(), Room::default());
    Assembly::new(Subsystem::Http, plugins, &workspaces, &room, faults)
}

/// The plugin that runs on the route for `consumer`.
fn chosen(plugins: &[Plugin], consumer: Option<u128>) -> Option<u128> {
    let mut faults = Vec::new();
    let assembly = assemble(plugins, &mut faults);
    assert_eq!(faults, []);
    let filters = assembly.of_route(&route(), DEFAULT_WORKSPACE);
    let slot = filters.slots.first()?;
    let place = slot.choose(consumer.map(Uuid::from_u128), &[])?;
    let enabled: Vec<&Plugin> = plugins.iter().filter(|plugin| plugin.enabled).collect();
    Some(enabled[place].id.as_u128())
}

#[test]
fn the_most_specific_configuration_runs_and_a_disabled_one_leaves_its_place() {
    // The most specific first.
    let mut plugins = vec![
        plugin(11, ROUTE, SERVICE, CONSUMER),
        plugin(12, ROUTE, 0, CONSUMER),
        plugin(13, 0, SERVICE, CONSUMER),
        plugin(14, ROUTE, SERVICE, 0),
        plugin(15, 0, 0, CONSUMER),
        plugin(16, ROUTE, 0, 0),
        plugin(17, 0, SERVICE, 0),
        plugin(18, 0, 0, 0),
    ];
    for place in 0..plugins.len() {
        let expected = plugins[place].id.as_u128();
        assert_eq!(chosen(&plugins, Some(CONSUMER)), Some(expected));
        let anybody = plugins[place..]
            .iter()
            .find(|plugin| plugin.consumer.is_none())
            .map(|plugin| plugin.id.as_u128());
        assert_eq!(chosen(&plugins, None), anybody);
        assert_eq!(chosen(&plugins, Some(OTHER)), anybody);
        plugins[place].enabled = false;
    }
    assert_eq!(chosen(&plugins, Some(CONSUMER)), None);
}

#[test]
fn a_group_outranks_the_route_and_gives_way_to_the_consumer() {
    let mut grouped = plugin(12, 0, 0, 0);
    let group = Uuid::from_u128(7);
    grouped.consumer_group = Some(shared::types::Ref::new(group));
    let mut plugins = [
        plugin(11, 0, 0, CONSUMER),
        grouped.clone(),
        plugin(13, ROUTE, 0, 0),
    ];
    let member = [Membership {
        group,
        name: "g".to_owned(),
    }];
    let choose = |plugins: &[Plugin], groups: &[Membership]| {
        let assembly = assemble(plugins, &mut Vec::new());
        let filters = assembly.of_route(&route(), DEFAULT_WORKSPACE);
        filters.slots[0].choose(Some(Uuid::from_u128(CONSUMER)), groups)
    };
    assert_eq!(choose(&plugins, &member), Some(0));
    plugins[0].enabled = false;
    assert_eq!(
        choose(&plugins, &member),
        Some(0),
        "the group's is the first now"
    );
    assert_eq!(choose(&plugins, &[]), Some(1));
    // For both it is for nobody who is only one of them.
    let mut both = plugin(14, 0, 0, CONSUMER);
    both.consumer_group = Some(shared::types::Ref::new(group));
    let plugins = [plugins[2].clone(), plugin(15, 0, 0, CONSUMER), both];
    assert_eq!(choose(&plugins, &member), Some(2));
    assert_eq!(choose(&plugins, &[]), Some(1));
    assert_eq!(choose(&plugins[..1], &member), Some(0));
    // Somebody who is no consumer may be in a group all the same.
    let plugins = [plugin(16, 0, 0, CONSUMER), plugin(17, 0, 0, 0), grouped];
    let assembly = assemble(&plugins, &mut Vec::new());
    let filters = assembly.of_route(&route(), DEFAULT_WORKSPACE);
    assert_eq!(filters.slots[0].choose(None, &member), Some(2));
    assert_eq!(filters.slots[0].choose(None, &[]), Some(1));
}

#[test]
fn plugins_of_other_scopes_are_not_there() {
    for (route, service, consumer) in [
        (OTHER, 0, 0),
        (0, OTHER, 0),
        (0, 0, OTHER),
        (ROUTE, OTHER, 0),
        (OTHER, SERVICE, CONSUMER),
    ] {
        let plugins = [plugin(11, route, service, consumer)];
        assert_eq!(chosen(&plugins, Some(CONSUMER)), None);
    }
}

#[test]
fn rule_129_no_log_tells_what_a_route_looks_for_credentials_under() {
    let plugin = |id: u128, name: &str, route: Option<u128>, config: Value| -> Plugin {
        let fields = json!({
            "id": Uuid::from_u128(id), "created_at": 1, "updated_at": 1, "name": name,
            "route": route.map(|id| json!({"id": Uuid::from_u128(id)})), "config": config,
        });
        serde_json::from_value(fields).unwrap()
    };
    let keys = json!({"key_names": ["my_key"]});
    let tokens = json!({"uri_param_names": ["tok"], "header_names": ["X-Tok"]});
    let plugins = [
        plugin(1, "key-auth", Some(ROUTE), keys),
        plugin(2, "jwt", None, tokens),
    ];
    let mut faults = Vec::new();
    let assembly = assemble(&plugins, &mut faults);
    assert_eq!(faults, []);
    let route = assembly.of_route(&route(), DEFAULT_WORKSPACE);
    for argument in ["my_key", "MY_KEY", "tok", "access_token"] {
        assert!(route.secrets.has_argument(argument), "{argument}");
    }
    for field in ["my_key", "my-key", "x-tok", "authorization"] {
        assert!(route.secrets.has_field(field), "{field}");
    }
    assert!(!route.secrets.has_argument("key") && !route.secrets.has_field("my-keys"));
    // Of another route's plugins nothing is known.
    let none = assembly.of_none();
    assert!(none.secrets.has_argument("tok") && !none.secrets.has_argument("my_key"));
}

#[test]
fn a_fault_of_a_record_of_another_kind_with_the_same_id_is_none_of_the_plugin() {
    let fault = |kind| CompileFault {
        kind,
        id: Uuid::from_u128(20),
        field: "key".to_owned(),
        message: "it is gone".to_owned(),
    };
    for (kind, runs) in [("certificates", true), ("plugins", false)] {
        let plugins = [plugin(20, ROUTE, 0, 0)];
        let mut faults = vec![fault(kind)];
        let assembly = assemble(&plugins, &mut faults);
        let stands = matches!(
            assembly.filters.get(0).map(|filter| &**filter),
            Some(AnyFilter::Acl(_))
        );
        assert_eq!(stands, runs, "{kind}");
    }
}
