//! Connections that the kernel remembers.

use super::*;

#[test]
fn datagrams_from_one_port_find_the_pod_that_is_there() {
    on_own_host(|| async {
        forward();
        bridge();
        let world = world();
        let _pods = [pod(2), pod(3)];
        // So that connections are remembered from the beginning.
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80, "protocol": "udp"}])).unwrap();
        for (of_host, of_world) in [("192.0.2.1", "192.0.2.2"), ("[2001:db8::1]", "[2001:db8::2]")] {
            let client = world.run(|| UdpSocket::bind(format!("{of_world}:4000")).unwrap());
            client.connect(format!("{of_host}:8080")).unwrap();
            // The kernel looks for a new neighbour once a second.
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let ask = || client.send(b"?").and_then(|_| client.recv(&mut [0; 100]));
            for number in [2, 3] {
                assert_eq!(
                    ask().unwrap_err().kind(),
                    std::io::ErrorKind::ConnectionRefused,
                    "before {number}"
                );
                let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
                add_to("c", number, mapping).unwrap();
                ask().unwrap_or_else(|error| panic!("{number}: {error}"));
                del("c");
            }
            assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "after both");
        }
    });
}

#[test]
fn only_connections_that_went_to_the_pod_are_forgotten() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, server) = (world(), pod(2));
        let udp = json!([{"hostPort": 53, "containerPort": 80, "protocol": "udp"}]);
        world.udp_server("[::]:53");
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80, "protocol": "udp"}])).unwrap();
        let listed = || sh("conntrack -L -p udp --orig-port-dst 53 2>/dev/null");
        let passing = || listed().lines().filter(|line| line.contains("dst=192.0.2.2")).count();
        server.ask_udp(at("192.0.2.2:53")).unwrap();
        assert_eq!(passing(), 1);
        add_to("c", 3, udp.clone()).unwrap();
        assert_eq!(passing(), 1, "what passes the host isn't meant for it");
        del("c");
        add_to("c", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        let ours = || listed().lines().filter(|line| line.contains("dst=192.0.2.1 ")).count();
        assert_eq!(ours(), 1);
        add_to("c", 2, udp.clone()).unwrap();
        assert_eq!(ours(), 1, "what goes there already stays");
        del("c");
        assert_eq!((ours(), passing()), (0, 1));
        // Told by the configuration alone, as by a DEL that comes after one which was cut short.
        add_to("c", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        tables::withdraw(OWNED, |of| of == "n/c/eth0").unwrap();
        assert_eq!(ours(), 1);
        run(&call(Command::Del, "c", &["10.1.0.2/16"], mapped(udp.clone()))).unwrap();
        assert_eq!(ours(), 0);
        // But not when it is another's by now.
        add_to("new", 2, udp.clone()).unwrap();
        world.ask_udp(at("192.0.2.1:53")).unwrap();
        run(&call(Command::Del, "c", &["10.1.0.2/16"], mapped(udp))).unwrap();
        assert_eq!(ours(), 1);
    });
}

#[test]
fn a_connection_to_a_pod_that_is_gone_ends_instead_of_reaching_the_next() {
    on_own_host(|| async {
        forward();
        bridge();
        let (world, server) = (world(), pod(2));
        let listener = server.run(|| TcpListener::bind("0.0.0.0:90").unwrap());
        add_to("keeper", 9, json!([{"hostPort": 9999, "containerPort": 80}])).unwrap();
        add_to("c", 2, json!([{"hostPort": 8090, "containerPort": 90}])).unwrap();
        let mut client = world.run(|| TcpStream::connect("192.0.2.1:8090").unwrap());
        let _server = listener.accept().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        del("c");
        client.write_all(b"x").unwrap();
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    });
}
