//! Certificates as they are made, renewed and judged.

use std::os::unix::fs::PermissionsExt;

use shared::tls::{Identity, Role};

use super::*;

fn command(directory: &Path, nodes: &[&str]) -> CertificatesCommand {
    CertificatesCommand {
        out: directory.to_owned(),
        data_planes: nodes.iter().map(|&name| name.to_owned()).collect(),
        groups: Vec::new(),
        names: vec!["gateway.example".to_owned()],
    }
}

#[test]
fn a_second_run_keeps_the_authority_and_every_key() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    write(&command(directory.path(), &["node-1"]), UnixTime::now()).unwrap();
    let before = (read("ca.pem"), read("ca.key"), read("node-1.key"));
    let serial = || {
        let chain = tls::read_certificates(&directory.path().join("node-1.pem")).unwrap();
        let (_, certificate) = parse_x509_certificate(&chain[0]).unwrap();
        certificate.tbs_certificate.raw_serial().to_vec()
    };
    let first = serial();
    write(
        &command(directory.path(), &["node-1", "node-2"]),
        UnixTime::now(),
    )
    .unwrap();
    assert_eq!(before, (read("ca.pem"), read("ca.key"), read("node-1.key")));
    assert_ne!(first, serial());
    for key in ["ca.key", "control-plane.key", "node-1.key", "node-2.key"] {
        let mode = std::fs::metadata(directory.path().join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn a_second_run_keeps_the_names_of_the_control_plane() {
    let directory = tempfile::tempdir().unwrap();
    let run = |names: &[&str]| {
        let command = CertificatesCommand {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..command(directory.path(), &[])
        };
        write(&command, UnixTime::now()).unwrap();
        let chain = tls::read_certificates(&directory.path().join("control-plane.pem")).unwrap();
        let (_, certificate) = parse_x509_certificate(&chain[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let names = names.value.general_names.iter();
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    let first = run(&["cp.internal", "10.0.0.7", "fd00::7"]);
    assert_eq!(first.len(), 6, "{first:?}");
    assert_eq!(run(&[]), first);
    assert_eq!(run(&["CP.internal", "FD00:0::7"]), first, "they are there");
    let more = run(&["cp2.internal"]);
    assert!(first.iter().all(|name| more.contains(name)), "{more:?}");
    assert_eq!(more.len(), 7, "{more:?}");
    // Whoever wants to be rid of a name takes the certificate away; its key stays.
    std::fs::remove_file(directory.path().join("control-plane.pem")).unwrap();
    assert_eq!(run(&[]).len(), 3);
}

#[test]
fn a_certificate_whose_names_cannot_be_told_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control-plane.pem");
    let run = || write(&command(directory.path(), &[]), UnixTime::now());
    run().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let not_der = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bytes in [&b""[..], &whole[..whole.len() / 2], not_der, b"\xff"] {
        std::fs::write(&path, bytes).unwrap();
        let refused = run().unwrap_err().to_string();
        assert!(refused.contains("control-plane.pem"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is left as it was");
    }
    std::fs::write(&path, whole).unwrap();
    run().unwrap();
}

#[test]
fn a_node_certificate_carries_its_name_and_only_serves_clients() {
    let directory = tempfile::tempdir().unwrap();
    write(&command(directory.path(), &["node-1"]), UnixTime::now()).unwrap();
    let chain = tls::read_certificates(&directory.path().join("node-1.pem")).unwrap();
    let (_, certificate) = parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=node-1");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(certificate.validity().is_valid());
}

#[test]
fn names_that_would_overwrite_other_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["ca", "control-plane", "../x", "", "a b", ".hidden"] {
        let result = write(&command(directory.path(), &[name]), UnixTime::now());
        assert!(matches!(result, Err(CertificatesError::Name(_))), "{name}");
    }
    std::fs::write(directory.path().join("ca.pem"), "x").unwrap();
    let result = write(&command(directory.path(), &[]), UnixTime::now());
    assert!(matches!(result, Err(CertificatesError::HalfAuthority(_))));
}

#[test]
fn names_that_no_host_has_and_places_of_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let base = command(directory.path(), &["node-1"]);
    let with = |change: fn(&mut CertificatesCommand)| {
        let mut command = base.clone();
        change(&mut command);
        write(&command, UnixTime::now())
    };
    for name in ["", "a b", "https://cp", "cp:8005"] {
        let named = CertificatesCommand {
            names: vec![name.to_owned()],
            ..base.clone()
        };
        let refused = write(&named, UnixTime::now());
        assert!(matches!(refused, Err(CertificatesError::Host(_))), "{name}");
    }
    let both = with(|command| {
        command.groups = vec!["pods".to_owned()];
        command.data_planes = vec!["web-1.pods".to_owned()];
    });
    assert!(matches!(both, Err(CertificatesError::OfGroup { .. })));
    with(|command| command.groups = vec!["pods".to_owned()]).unwrap();
    let later = with(|command| command.data_planes = vec!["web-1.pods".to_owned()]);
    assert!(matches!(later, Err(CertificatesError::OfGroup { .. })));
    for taken in [
        with(|command| command.groups = vec!["node-1".to_owned()]),
        with(|command| command.data_planes = vec!["pods".to_owned()]),
    ] {
        assert!(matches!(taken, Err(CertificatesError::Taken { .. })));
    }
}

#[test]
fn of_two_authorities_the_one_issues_whose_key_is_there() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let make = |directory: &Path| write(&command(directory, &["node-1"]), UnixTime::now());
    for directory in [&old, &new] {
        make(directory.path()).unwrap();
    }
    let read = |directory: &Path| std::fs::read_to_string(directory.join("ca.pem")).unwrap();
    let both = read(old.path()) + &read(new.path());
    std::fs::write(new.path().join("ca.pem"), &both).unwrap();
    make(new.path()).unwrap();
    assert_eq!(read(new.path()), both);
    std::fs::write(new.path().join("ca.pem"), read(old.path())).unwrap();
    assert!(matches!(
        make(new.path()),
        Err(CertificatesError::Foreign(_))
    ));
    std::fs::write(new.path().join("ca.pem"), both).unwrap();
    let own = Identity::read(
        &new.path().join("node-1.pem"),
        &new.path().join("node-1.key"),
    );
    let own = own.unwrap();
    let doubt = |authorities: &Path| {
        let authorities = tls::read_authorities(&authorities.join("ca.pem")).unwrap();
        own.judge(Role::DataPlane, &authorities, UnixTime::now())
    };
    assert_eq!(doubt(new.path()).unwrap(), None);
    let said = doubt(old.path()).unwrap().unwrap();
    assert!(said.contains("no authority in cluster_ca"), "{said}");
}

#[test]
fn a_certificate_is_that_of_its_role_and_of_its_time() {
    let directory = tempfile::tempdir().unwrap();
    write(&command(directory.path(), &["node-1"]), UnixTime::now()).unwrap();
    let authorities = tls::read_authorities(&directory.path().join("ca.pem")).unwrap();
    let judge = |name: &str, role, now| {
        let file = |end: &str| directory.path().join(format!("{name}.{end}"));
        let own = Identity::read(&file("pem"), &file("key")).unwrap();
        let doubt = own.judge(role, &authorities, now);
        doubt.map_err(|error| error.to_string())
    };
    let now = UnixTime::now();
    let late = now.saturating_add(DAY * (MEMBER_DAYS + 1));
    assert_eq!(judge("node-1", Role::DataPlane, now), Ok(None));
    assert_eq!(judge("control-plane", Role::ControlPlane, now), Ok(None));
    for (name, role, now, said) in [
        ("node-1", Role::ControlPlane, now, "has not the name"),
        ("control-plane", Role::DataPlane, now, "is not for clients"),
        ("node-1", Role::DataPlane, late, "it has ended"),
        ("control-plane", Role::ControlPlane, late, "it has ended"),
        (
            "node-1",
            Role::DataPlane,
            UnixTime::from_secs(0),
            "has not begun",
        ),
    ] {
        let judged = judge(name, role, now);
        let told = judged.clone().map(Option::unwrap_or_default);
        let told = told.unwrap_or_else(|error| error);
        assert!(told.contains(said), "{name} {role:?}: {judged:?}");
    }
}
