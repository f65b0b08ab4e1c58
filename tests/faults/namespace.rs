//! A network of its own for some processes, joined to ours by links that can be cut: what is sent then
//! is lost without a word, as when a switch fails.

use std::net::Ipv4Addr;
use std::process::Command;

/// A network namespace; gone with all of its links when dropped. It takes root.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

/// A direction of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    FromUs,
    ToUs,
}

/// A link into a namespace, with an address on each side.
pub(crate) struct Link {
    namespace: String,
    /// Its device on our side, and on theirs.
    devices: [String; 2],
    pub(crate) ours: Ipv4Addr,
    pub(crate) theirs: Ipv4Addr,
}

impl Namespace {
    pub(crate) fn make(name: &str) -> Self {
        let namespace = Self {
            name: format!("wg{}-{name}", std::process::id()),
        };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// What runs a program inside.
    pub(crate) fn command(&self) -> [String; 4] {
        ["ip", "netns", "exec", &self.name].map(str::to_owned)
    }

    /// Joins it to our network. Links of one test have numbers of their own.
    pub(crate) fn link(&self, number: u8) -> Link {
        // A block for documentation (RFC 5737, section 3): no real network has these addresses.
        let [a, b, c, _] = Ipv4Addr::new(198, 51, 100, 0).octets();
        let address = |last| Ipv4Addr::new(a, b, c, number * 4 + last);
        let link = Link {
            namespace: self.name.clone(),
            // Names of devices have at most 15 characters.
            devices: [
                format!("wg{}-{number}", std::process::id()),
                format!("wg-{number}"),
            ],
            ours: address(1),
            theirs: address(2),
        };
        let [ours, theirs] = &link.devices;
        let peer = ["type", "veth", "peer", "name", theirs];
        ip(&[&["link", "add", ours], &peer[..], &["netns", &self.name]].concat());
        ip(&["addr", "add", &format!("{}/30", link.ours), "dev", ours]);
        ip(&["link", "set", ours, "up"]);
        self.ip(&["addr", "add", &format!("{}/30", link.theirs), "dev", theirs]);
        self.ip(&["link", "set", theirs, "up"]);
        link
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its ends of the links go with it, and ours with those. Nothing else can be done about a failure.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

impl Link {
    /// Loses whatever is sent from now on, in both directions, and tells nobody.
    ///
    /// A device that is switched off would be known to the kernel, which then fails what is sent; what goes to
    /// a hardware address that nobody has is lost as on a real network.
    pub(crate) fn cut(&self) {
        self.lose(Way::FromUs);
        self.lose(Way::ToUs);
    }

    /// Loses what is sent one way.
    pub(crate) fn lose(&self, way: Way) {
        let nobody = ["lladdr", "02:00:00:00:00:fe", "nud", "permanent"];
        self.neighbour(way, "replace", &nobody);
    }

    /// Carries so many kilobits a second to the namespace from now on, and keeps the rest waiting.
    pub(crate) fn slow(&self, kilobits: u32) {
        let [ours, _] = &self.devices;
        let rate = format!("{kilobits}kbit");
        let arguments = [
            "qdisc", "replace", "dev", ours, "root", "tbf", "rate", &rate, "burst", "16kb",
            "latency", "2s",
        ];
        command("tc", &arguments);
    }

    /// Loses `percent` of the packets of each way by chance, until what this returns is dropped. They are lost where they arrive: the
    /// kernel would tell a sender of what it drops on its side.
    pub(crate) fn lose_some(&self, percent: u8) -> Loss {
        let probability = format!("0.{percent:02}");
        let [ours, theirs] = self.devices.each_ref().map(|device| {
            let chance = ["-m", "statistic", "--mode", "random", "--probability"];
            let rule = ["INPUT", "-i", device].into_iter().chain(chance).chain([
                probability.as_str(),
                "-j",
                "DROP",
            ]);
            rule.map(str::to_owned).collect::<Vec<_>>()
        });
        iptables("-A", &ours);
        let there = ["netns", "exec", &self.namespace, "iptables", "-w", "-A"];
        let theirs = theirs.iter().map(String::as_str);
        ip(&there.into_iter().chain(theirs).collect::<Vec<_>>());
        Loss { rule: ours }
    }

    /// Carries again what is sent.
    pub(crate) fn heal(&self) {
        for way in [Way::FromUs, Way::ToUs] {
            // Both sides have talked, so both have an entry.
            self.neighbour(way, "del", &[]);
        }
    }

    /// What the sender of one way takes for the other's hardware address.
    fn neighbour(&self, way: Way, action: &str, entry: &[&str]) {
        let [ours, theirs] = &self.devices;
        let (we, they) = (self.ours.to_string(), self.theirs.to_string());
        let there = ["-n", &self.namespace, "neigh", action, &we, "dev", theirs];
        match way {
            Way::FromUs => ip(&[&["neigh", action, &they, "dev", ours], entry].concat()),
            Way::ToUs => ip(&[&there[..], entry].concat()),
        }
    }
}

/// What is lost by chance. The rule on our side would outlive the link; the other goes with its namespace.
pub(crate) struct Loss {
    rule: Vec<String>,
}

impl Drop for Loss {
    fn drop(&mut self) {
        iptables("-D", &self.rule);
    }
}

fn iptables(action: &str, rule: &[String]) {
    let rule = rule.iter().map(String::as_str);
    command(
        "iptables",
        &["-w", action].into_iter().chain(rule).collect::<Vec<_>>(),
    );
}

fn ip(arguments: &[&str]) {
    command("ip", arguments);
}

fn command(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.expect("iproute2 and iptables are installed: tests/faults/run sees to it");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?}: {said}");
}
