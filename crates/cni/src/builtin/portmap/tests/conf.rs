//! What a configuration may ask for, and how it is read.

use super::*;

#[test]
fn what_cannot_be_honoured_is_named() {
    let served = |config: Value| serves(config.as_object().unwrap()).map_err(|unserved| unserved.field);
    for config in [
        json!({}),
        json!({"backend": "nftables", "conditionsV4": null, "conditionsV6": [], "markMasqBit": 5, "snat": true}),
    ] {
        assert_eq!(served(config), Ok(()));
    }
    for (config, field) in [
        (json!({"backend": "iptables"}), "backend: iptables"),
        (json!({"backend": 1}), "backend: ?"),
        (json!({"conditionsV4": ["!", "-d", "192.0.2.0/24"]}), "conditionsV4"),
        (json!({"conditionsV6": "x"}), "conditionsV6"),
        (json!({"conditionsv4": ["!", "-d", "192.0.2.0/24"]}), "conditionsV4"),
        (json!({"Backend": "iptables"}), "backend: iptables"),
        (json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), "externalSetMarkChain"),
    ] {
        assert_eq!(served(config), Err(field.to_owned()));
    }
}

#[test]
fn whose_source_is_changed_is_found_in_any_case() {
    for (config, whose) in [
        (json!({}), Snat::Near),
        (json!({"SNAT": false}), Snat::Nobodys),
        (json!({"masqall": true}), Snat::Everybodys),
        (json!({"snat": null, "MasqAll": null}), Snat::Near),
    ] {
        assert_eq!(snat(&call(Command::Add, "c", &[], config.clone())).unwrap(), whose, "{config}");
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_said() {
    let refused = |config: Value| match run(&call(Command::Add, "c", &["10.1.0.2/16"], config)).unwrap_err() {
        Error::PluginConf { problem, .. } => problem,
        other => panic!("{other}"),
    };
    for (mapping, words) in [
        (json!({"hostPort": 80, "containerPort": 0}), "containerPort is 0"),
        (json!({"hostPort": 70000, "containerPort": 80}), "70000"),
        (json!({"hostPort": -1, "containerPort": 80}), "-1"),
        (json!({"hostPort": 80}), "containerPort"),
        (json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}), "'icmp'"),
        (json!({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"}), "'localhost'"),
    ] {
        let problem = refused(mapped(json!([mapping])));
        assert!(problem.contains("portMappings") && problem.contains(words), "{problem}");
    }
    let twice = json!([{"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81}]);
    let refusal = add_to("c", 2, twice).unwrap_err().to_string();
    assert_eq!(refusal, "host port 80/tcp is to lead to two ports");
    assert!(refused(json!({"markMasqBit": 32})).contains("markMasqBit"));
    assert!(refused(json!({"snat": "yes"})).contains("snat"));
    assert!(refused(json!({"prevResult": null})).contains("prevResult"));
}

#[test]
fn the_pods_addresses_are_those_of_the_interface_one_of_each_family() {
    let interfaces =
        json!([{"name": "eth0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "eth1", "sandbox": "/x"}]);
    let ips = json!([
        {"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 2},
        {"address": "10.0.0.3/24", "interface": 1}, {"address": "10.0.0.4/24"}, {"address": "fd00::5/64"}]);
    let previous = json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips});
    let request = call(Command::Add, "c", &[], json!({"prevResult": previous}));
    let found = addresses(&request, &request.previous().unwrap().unwrap());
    let shown: Vec<String> = found.iter().map(Cidr::to_string).collect();
    assert_eq!(shown, ["10.0.0.3/24", "fd00::5/64"]);
}
