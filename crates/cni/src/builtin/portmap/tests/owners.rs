//! Whose a host port is, and what comes of everybody's entries.

use super::*;

#[test]
fn a_taken_host_port_is_refused_with_all_others_of_the_request() {
    on_own_host(|| async {
        bridge();
        add_to("first", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        let before = ruleset();
        let wanted =
            json!([{"hostPort": 8083, "containerPort": 80}, {"hostPort": 8080, "containerPort": 80}]);
        for _ in 0..2 {
            let error = add_to("second", 3, wanted.clone()).unwrap_err();
            assert!(matches!(error, Error::HostPortTaken { port: 8080, protocol: "tcp", .. }), "{error}");
            // What undoes the failed one touches nothing of the first.
            del("second");
            assert_eq!(ruleset(), before);
        }
        add_to("first", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        assert_eq!(ruleset(), before, "the same again");
        del("first");
        add_to("second", 3, wanted).unwrap();
    });
}

#[test]
fn an_address_that_came_back_belongs_to_who_has_it_now() {
    on_own_host(|| async {
        bridge();
        add_to("gone", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        // Its address was given to another without a DEL.
        add_to("new", 2, json!([])).unwrap();
        assert!(!ruleset().contains("8080"));
        add_to("newer", 2, json!([{"hostPort": 8080, "containerPort": 80}])).unwrap();
        del("gone");
        del("new");
        assert!(ruleset().contains("n/newer/eth0"));
    });
}

#[test]
fn thousands_of_host_ports_are_mapped_at_once() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, _server) = (world(), pod(2));
        let before = ruleset();
        for count in [2000, 6000] {
            let mapping = |n: u32| json!({"hostPort": 10_000 + n, "containerPort": 80});
            let mappings: Vec<Value> = (0..count).map(mapping).collect();
            add_to("c", 2, json!(mappings)).unwrap();
            for port in [10_000, 10_000 + count - 1] {
                world.ask_tcp(at(&format!("192.0.2.1:{port}"))).unwrap();
                world.ask_tcp(at(&format!("[2001:db8::1]:{port}"))).unwrap();
            }
            // One too many: none of as many others.
            let mapping = |n: u32| json!({"hostPort": 9_999 - n, "containerPort": 80});
            let mappings: Vec<Value> = (0..count.min(2000))
                .map(mapping)
                .chain([json!({"hostPort": 10_000, "containerPort": 80})])
                .collect();
            assert!(matches!(
                add_to("d", 3, json!(mappings)),
                Err(Error::HostPortTaken { port: 10_000, .. })
            ));
            assert!(!ruleset().contains("n/d/eth0"));
            del("c");
            assert_eq!(ruleset(), before);
        }
    });
}

#[test]
fn a_collection_keeps_who_is_valid_and_whoever_flushed_is_mended() {
    on_own_host(|| async {
        bridge();
        let before = ruleset();
        let web = |port: u16| json!([{"hostPort": port, "containerPort": 80}]);
        add_to("one", 2, web(8080)).unwrap();
        add_to("two", 3, web(8081)).unwrap();
        let collect = |valid: Value| {
            let config = json!({"name": "n", "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
            let config = config.as_object().unwrap().clone();
            run(&Request::about_network("portmap", Command::Gc, config)).unwrap();
            tables::clear_if_unused().unwrap();
        };
        collect(json!([{"containerID": "one", "ifname": "eth0"}]));
        assert!(ruleset().contains("8080") && !ruleset().contains("8081"));
        let (whole, pod): (_, IpAddr) = (ruleset(), [10, 1, 0, 2].into());
        sh("nft flush ruleset");
        assert!(!tables::is_installed([pod]).unwrap());
        add_to("one", 2, web(8080)).unwrap();
        assert!(tables::is_installed([pod]).unwrap());
        assert_eq!(ruleset(), whole);
        // What was listed can be loaded.
        sh(
            "nft list ruleset > /dev/shm/$$.nft; nft flush ruleset; nft -f /dev/shm/$$.nft; status=$?; rm /dev/shm/$$.nft; exit $status",
        );
        assert_eq!(ruleset(), whole);
        collect(json!([]));
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn of_many_who_want_a_host_port_at_once_one_gets_it() {
    on_own_host(|| async {
        bridge();
        let before = ruleset();
        let host = Netns::current();
        for _ in 0..10 {
            let won = std::thread::scope(|scope| {
                let attempt = |number: u8| {
                    let host = &host;
                    let mappings = json!([{"hostPort": 7000 + u16::from(number), "containerPort": 80}, {"hostPort": 8080, "containerPort": 80}]);
                    scope.spawn(move || host.run(|| add_to(&format!("c{number}"), number, mappings).is_ok()))
                };
                let attempts: Vec<_> = (10..18).map(attempt).collect();
                attempts.into_iter().filter_map(|attempt| attempt.join().unwrap().then_some(())).count()
            });
            assert_eq!(won, 1);
            // Two entries a port in each family, and one of the pod, all of one owner.
            let owners: HashSet<String> =
                ruleset().split("comment \"n/").skip(1).map(|rest| rest[..3].to_owned()).collect();
            assert_eq!((ruleset().matches("comment \"n/").count(), owners.len()), (10, 1));
            (10..18).for_each(|number: u8| del(&format!("c{number}")));
            assert_eq!(ruleset(), before);
        }
    });
}
