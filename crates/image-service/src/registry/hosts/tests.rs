//! Files as operators write them, and as they should not.

use super::*;

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn bases(dir: &Path, registry: &str) -> Vec<String> {
    plan(dir, registry).unwrap().endpoints.iter().map(|e| e.base.to_string()).collect()
}

#[test]
fn without_a_file_it_is_the_registry_itself() {
    let dir = tempfile::tempdir().unwrap();
    for (registry, base) in [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("quay.io", "https://quay.io/v2"),
        ("r.example:5000", "https://r.example:5000/v2"),
        ("localhost", "http://localhost/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.8.8.8:5000", "http://127.8.8.8:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost:443", "https://localhost/v2"),
        ("localhost.example", "https://localhost.example/v2"),
    ] {
        assert_eq!(bases(dir.path(), registry), [base], "{registry}");
    }
}

#[test]
fn mirrors_come_in_the_order_of_the_file_and_then_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        server = "https://upstream.example"
        [host."https://z.example"]
          capabilities = ["pull"]
        [host."http://a.example:5000/some/path"]
          skip_verify = true
          [host."http://a.example:5000/some/path".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."m.example/v2/"]
        [host."https://o.example/as/it/is"]
          override_path = true
    "#;
    write(dir.path(), "docker.io/hosts.toml", text);
    let found = plan(dir.path(), "docker.io").unwrap().endpoints;
    let bases: Vec<_> = found.iter().map(|e| e.base.as_str()).collect();
    assert_eq!(
        bases,
        [
            "https://z.example/v2",
            "http://a.example:5000/some/path/v2",
            "https://m.example/v2",
            "https://o.example/as/it/is",
            "https://upstream.example/v2"
        ]
    );
    assert!(found[0].can.pull && !found[0].can.resolve);
    assert!(found[1].can == Capabilities::ALL && found[1].tls.skip_verify);
    assert_eq!(found[1].headers.get_all("x-two").iter().count(), 2);
    assert_eq!(found[4].role, Role::Registry);
    assert!(found[..4].iter().all(|e| e.role == Role::Mirror));
}

#[test]
fn the_host_comes_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "_default/hosts.toml", "server = \"http://any.example\"");
    assert_eq!(bases(dir.path(), "r.example:5000"), ["http://any.example/v2"]);
    write(dir.path(), "r.example:5000/hosts.toml", "server = \"http://plain.example\"");
    assert_eq!(bases(dir.path(), "r.example:5000"), ["http://plain.example/v2"]);
    write(dir.path(), "r.example_5000_/hosts.toml", "[host.\"http://m.example\"]");
    let expected = ["http://m.example/v2", "https://r.example:5000/v2"];
    assert_eq!(bases(dir.path(), "r.example:5000"), expected);
}

/// A directory for one registry takes `_default` away from it, even an empty one: containerd's rule, which surprised
/// many (bottlerocket-core-kit issue 1039). Who asks is told.
#[test]
fn what_is_passed_over_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let found = |registry: &str| plan(dir.path(), registry).unwrap();
    assert_eq!((found("r.example:5000").said_by, found("r.example:5000").passed_over), (None, vec![]));
    write(dir.path(), "_default/hosts.toml", "[host.\"http://any.example\"]");
    write(dir.path(), "r.example:5000/hosts.toml", "server = \"http://plain.example\"");
    fs::create_dir(dir.path().join("r.example_5000_")).unwrap();
    let plan = found("r.example:5000");
    assert_eq!(plan.said_by, Some(dir.path().join("r.example_5000_")));
    assert_eq!(plan.passed_over, [dir.path().join("r.example:5000"), dir.path().join("_default")]);
    assert_eq!(bases(dir.path(), "r.example:5000"), ["https://r.example:5000/v2"]);
    write(dir.path(), "r.example_5000_/hosts.toml", " \n");
    assert_eq!(bases(dir.path(), "r.example:5000"), ["https://r.example:5000/v2"]);
    assert_eq!(found("other.example").said_by, Some(dir.path().join("_default/hosts.toml")));
}

#[test]
fn docker_hub_is_never_asked_at_its_name() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "docker.io/hosts.toml",
        "server = \"https://docker.io\"\n[host.\"index.docker.io/v2\"]",
    );
    let hub = "https://registry-1.docker.io/v2";
    assert_eq!(bases(dir.path(), "docker.io"), [hub, hub]);
}

#[test]
fn an_address_of_ipv6_may_have_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "[fd00::1]_5000_/hosts.toml", "server = \"http://a.example\"");
    assert_eq!(bases(dir.path(), "[fd00::1]:5000"), ["http://a.example/v2"]);
    write(dir.path(), "[fd00::2]/hosts.toml", "[host.\"http://[fd00::3]:5000\"]");
    assert_eq!(bases(dir.path(), "[fd00::2]"), ["http://[fd00::3]:5000/v2", "https://[fd00::2]/v2"]);
}

#[test]
fn an_endpoint_has_its_own_way_and_patience() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        dial_timeout = "1m"
        [host."https://m.example"]
          capabilities = ["Pull", "push"]
          dial_timeout = "250ms"
          proxy = "socks5h://proxy.example:1080/"
    "#;
    write(dir.path(), "r.example/hosts.toml", text);
    let found = plan(dir.path(), "r.example").unwrap().endpoints;
    assert_eq!(found[0].can, Capabilities { pull: true, resolve: false, push: true });
    assert_eq!(found[0].connect, Some(Duration::from_millis(250)));
    assert_eq!(found[0].proxy.as_ref().unwrap().as_str(), "socks5h://proxy.example:1080/");
    assert_eq!((found[1].connect, &found[1].proxy), (Some(Duration::from_secs(60)), &None));
}

#[test]
fn an_endpoint_may_have_credentials_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        credentials = "none"
        [host."https://a.example".credentials]
          file = "auths.json"
        [host."https://b.example".credentials]
          helper = "ecr-login"
        [host."https://c.example".credentials]
          username = "robot"
          password_file = "/run/secrets/robot"
        [host."https://d.example"]
    "#;
    write(dir.path(), "r.example/hosts.toml", text);
    let found = plan(dir.path(), "r.example").unwrap().endpoints;
    let credentials: Vec<_> = found.into_iter().map(|e| e.credentials).collect();
    let password = HostCredentials::Password { username: "robot".into(), file: "/run/secrets/robot".into() };
    let expected = [
        Some(HostCredentials::File(dir.path().join("r.example/auths.json"))),
        Some(HostCredentials::Helper("ecr-login".into())),
        Some(password),
        None,
        Some(HostCredentials::Nobody),
    ];
    assert_eq!(credentials, expected);
}

/// Other runtimes pass over what they don't know, and over a whole file that they can't read: then the registry is
/// asked instead of the mirror, and nobody knows.
#[test]
fn a_typo_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("[host.\"https://m\"]\ncapabilites = [\"pull\"]", ["[host.\"https://m\"]", "capabilites"]),
        ("[hosts.\"https://m\"]", ["outside of all [host]", "hosts"]),
        ("servr = \"https://m\"", ["outside of all [host]", "servr"]),
        ("capabilities = [\"pul\"]", ["pul", "none of the capabilities"]),
        ("dial_timeout = \"fast\"", ["dial_timeout", "fast"]),
        ("proxy = \"ftp://p.example\"", ["proxy", "bare address"]),
        ("proxy = \"http://p.example/path\"", ["proxy", "bare address"]),
        ("credentials = \"all\"", ["credentials", "none"]),
        ("[credentials]\nfile = \"a\"\nhelper = \"b\"", ["credentials", "one of"]),
        ("[credentials]\nusername = \"a\"", ["credentials", "one of"]),
        ("[credentials]\npassword = \"a\"", ["password", "password_file"]),
        ("[host.\"https://u:s3cret@m\"]", ["[host.\"m\"]", "credentials"]),
        ("[header]\nauthorization = [1]", ["header", "authorization"]),
        ("[header]\nauthorization = \"s3cret\\n\"", ["header", "can't be sent"]),
    ] {
        write(dir.path(), "r.example/hosts.toml", text);
        let error = crate::error::chain(&plan(dir.path(), "r.example").unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        assert!(error.contains("r.example/hosts.toml") && !error.contains("s3cret"), "{text}: {error}");
    }
}

#[test]
fn certificates_are_relative_to_the_file_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["r.example/ca.pem", "r.example/c.pem", "r.example/k.pem", "s.example/b.pem"] {
        write(dir.path(), name, "");
    }
    let outside = dir.path().join("a.pem");
    write(dir.path(), "a.pem", "");
    let text = "ca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"], [\"d.pem\", \"l.pem\"]]";
    write(dir.path(), "r.example/hosts.toml", text);
    let base = dir.path().join("r.example");
    let tls = &plan(dir.path(), "r.example").unwrap().endpoints[0].tls;
    assert_eq!(tls.authorities, [base.join("ca.pem")]);
    assert_eq!(tls.client, Some((base.join("c.pem"), Some(base.join("k.pem")))));
    let text = format!("ca = [\"{}\", \"b.pem\"]\nclient = \"both.pem\"", outside.display());
    write(dir.path(), "s.example/hosts.toml", &text);
    match plan(dir.path(), "s.example") {
        Err(Error::RegistryConfig { path, .. }) => {
            assert_eq!(path, dir.path().join("s.example/both.pem"))
        }
        other => panic!("{other:?}"),
    }
    write(dir.path(), "s.example/both.pem", "");
    let tls = &plan(dir.path(), "s.example").unwrap().endpoints[0].tls;
    assert_eq!(tls.authorities, [outside, dir.path().join("s.example/b.pem")]);
    assert_eq!(tls.client, Some((dir.path().join("s.example/both.pem"), None)));
}

#[test]
fn docker_s_certificates_do_without_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ca.crt", "me.cert", "me.key"] {
        write(dir.path(), &format!("r.example/{name}"), "");
    }
    let base = dir.path().join("r.example");
    let plan = plan(dir.path(), "r.example").unwrap();
    assert_eq!(plan.said_by.as_deref(), Some(base.as_path()));
    let tls = &plan.endpoints[0].tls;
    assert_eq!(tls.authorities, [base.join("ca.crt")]);
    assert_eq!(tls.client, Some((base.join("me.cert"), Some(base.join("me.key")))));
}

#[test]
fn all_that_is_broken_is_found_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(survey(&dir.path().join("lacking")).0, 0);
    write(dir.path(), "README", "");
    write(dir.path(), "a.example/hosts.toml", "server = \"https://m.example\"");
    write(dir.path(), "b.example_5000_/hosts.toml", "servr = \"https://m.example\"");
    write(dir.path(), "_default/hosts.toml", "ca = \"lacking.pem\"");
    let (count, problems) = survey(dir.path());
    let told: Vec<String> = problems.iter().map(|problem| crate::error::chain(problem)).collect();
    assert_eq!((count, told.len()), (3, 2));
    assert!(told[0].contains("_default/lacking.pem") && told[1].contains("servr"), "{told:?}");
}

#[test]
fn a_broken_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for text in [
        "server = 1",
        "host = 1",
        "[host.\"ftp://x\"]",
        "[host.\"https://x\"]\nskip_verify = \"no\"",
        "client = []",
        "[header]\n\"a b\" = \"c\"",
        "not toml",
    ] {
        write(dir.path(), "_default/hosts.toml", text);
        match plan(dir.path(), "r.example") {
            Err(Error::RegistryConfig { path, .. }) => assert!(path.ends_with("_default/hosts.toml")),
            other => panic!("{text:?} gives {other:?}"),
        }
    }
}
