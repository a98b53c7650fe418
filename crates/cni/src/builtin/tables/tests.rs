use super::netns::{on_own_host, sh};
use super::*;
use crate::builtin::link::octets;
use crate::builtin::netlink::Message;
use crate::builtin::nft::Value;
use crate::result::Cidr;

fn placed(key: u8, chain: &str, comment: &str) -> Placed {
    let entry = Entry { key: vec![10, 0, 0, key], value: Value::Goto(chain.into()), comment: comment.into() };
    Placed { family: Family::Ipv4, map: Map::Masquerade, entry }
}

fn taken(placed: &Placed) -> Error {
    Error::AlreadyAttached { container_id: placed.entry.comment.clone(), ifname: String::new() }
}

fn wish<'a>(owner: &str, entries: Vec<Placed>, stale: &'a dyn Fn(&Placed) -> bool) -> Wish<'a> {
    Wish {
        owner: owner.into(),
        sight: Sight::Maps(&[Map::Masquerade]),
        entries,
        branches: Vec::new(),
        stale,
        clashes: &|_| false,
        taken: &taken,
    }
}

/// The chains of which it is known that nothing else leads there.
fn going(found: &[Placed], plan: &Plan) -> Vec<String> {
    unused(found, plan).into_iter().map(|(_, name)| name).collect()
}

#[test]
fn a_plan_changes_only_what_differs() {
    let none = |_: &Placed| false;
    let found = [placed(1, "a", "n/one/eth0"), placed(2, "b", "n/other/eth0")];
    let same = plan(&found, &wish("n/one/eth0", vec![found[0].clone()], &none)).unwrap();
    assert_eq!(same, Plan::default());
    let moved = plan(&found, &wish("n/one/eth0", vec![placed(3, "b", "n/one/eth0")], &none)).unwrap();
    assert_eq!(moved.remove, [found[0].clone()]);
    assert_eq!(moved.add, [placed(3, "b", "n/one/eth0")]);
    assert_eq!(going(&found, &moved), ["a"]);
}

#[test]
fn what_another_has_is_taken_unless_it_is_left_over() {
    let found = [placed(1, "a", "n/other/eth0")];
    let entries = vec![placed(1, "a", "n/one/eth0")];
    let refused = plan(&found, &wish("n/one/eth0", entries.clone(), &|_| false)).unwrap_err();
    assert!(matches!(refused, Error::AlreadyAttached { container_id, .. } if container_id == "n/other/eth0"));
    let over = plan(&found, &wish("n/one/eth0", entries.clone(), &|_| true)).unwrap();
    assert_eq!(going(&found, &over), Vec::<String>::new(), "the chain stays in use");
    assert_eq!((over.remove, over.add), (found.to_vec(), entries));
}

#[test]
fn subnets_are_named_as_nft_takes_them() {
    let name = |text| chain_name("masquerade", Cidr::parse(text).unwrap());
    assert_eq!(name("10.1.2.3/16"), "masquerade-10.1.0.0/16");
    assert_eq!(name("10.1.2.3/32"), "masquerade-10.1.2.3/32");
    assert_eq!(name("fd00:231::5/64"), "masquerade-fd00-231--/64");
    assert_eq!(name("::1/0"), "masquerade---/0");
}

/// What a kernel without nftables answers, as this one answers who asks it for something else that it doesn't have.
#[test]
fn where_there_is_no_nftables_there_is_nothing_to_take_away() {
    on_own_host(|| async {
        // The last netlink protocol there may be, which nobody has.
        let none =
            || Socket::open(rustix::net::Protocol::from_raw(std::num::NonZero::new(31).unwrap()).into());
        assert_eq!(none().unwrap_err().raw_os_error(), Some(nix::libc::EPROTONOSUPPORT));
        assert!(Turn::if_any(none).unwrap().is_none());
        // rtnetlink is asked for a kind of message that it can't have.
        assert!(Turn::if_any(Socket::route).unwrap().is_none());
        // The last subsystem of nfnetlink that there may be.
        let unknown = Message::new(15 << 8, 0, &[0; 4]);
        let refused = Socket::netfilter().unwrap().request(unknown).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EINVAL));
        assert!(lacks_nftables(&refused));
        // Whoever may not ask doesn't know whether there is any.
        assert!(!lacks_nftables(&io::Error::from_raw_os_error(nix::libc::EPERM)));
        // Who wants something there is told.
        assert!(Turn::take(Socket::route).is_err());
        assert!(Turn::if_any(Socket::netfilter).unwrap().is_some());
    });
}

#[test]
fn what_changes_while_it_is_read_is_read_again() {
    on_own_host(|| async {
        let mut looks = 0;
        let nothing_to_do = |_: &mut Socket, _: &[Placed]| {
            looks += 1;
            if looks < 3 {
                sh("nft add table ip others; nft delete table ip others");
            }
            Ok((Batch::default(), looks))
        };
        let turn = Turn::take(Socket::netfilter).unwrap();
        assert_eq!(change(turn, Sight::Maps(&OWNED), nothing_to_do).unwrap(), 3);
        let (one, other) = (placed(1, "a", "n/one/eth0"), placed(2, "a", "n/one/eth0"));
        assert_eq!(once_each(vec![one.clone(), other.clone(), one.clone()]), [one, other]);
    });
}

/// Threads take turns; processes can't. Nobody's entry is lost, and none is left.
#[test]
fn nobody_takes_away_what_another_process_adds_at_the_moment() {
    on_own_host(|| async {
        let before = sh("nft list ruleset");
        let process = |number: u8| {
            let test = std::env::current_exe().unwrap();
            let mut command = std::process::Command::new(test);
            command.args(["--exact", "builtin::tables::tests::one_process_of_many"]);
            command.env(NUMBER, number.to_string()).stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let mut processes: Vec<_> = (0..8).map(process).collect();
        // Somebody whose tables are none of ours moves the generation on.
        for _ in 0..20 {
            sh("nft add table ip others; nft delete table ip others");
        }
        let failed =
            processes.iter_mut().filter_map(|process| (!process.wait().unwrap().success()).then_some(()));
        assert_eq!(failed.count(), 0);
        assert_eq!(sh("nft list ruleset"), before);
    });
}

const NUMBER: &str = "KNARR_TEST_NUMBER";

/// Does something only when the test above runs it.
#[test]
fn one_process_of_many() {
    let Some(number) = std::env::var(NUMBER).ok().and_then(|number| number.parse::<u8>().ok()) else {
        return;
    };
    let comment = format!("n/{number}/eth0");
    let subnet = Cidr { address: [10, number % 3, 0, number].into(), prefix: 16 };
    let (key, chain) = (octets(subnet.address), chain_name("test", subnet));
    let entry = Entry { key, value: Value::Goto(chain.clone()), comment: comment.clone() };
    let entry = Placed { family: Family::Ipv4, map: Map::Masquerade, entry };
    for _ in 0..30 {
        let branch =
            Branch { family: Family::Ipv4, name: chain.clone(), rules: vec![Rule::default().masquerade()] };
        let wish = Wish { branches: vec![branch], ..wish(&comment, vec![entry.clone()], &|_| false) };
        grant(&wish).unwrap();
        assert_eq!(lacking(&wish).unwrap(), [], "{comment}");
        let (removed, _) = withdraw(Sight::Maps(&[Map::Masquerade]), |of| of == comment).unwrap();
        assert_eq!(removed, std::slice::from_ref(&entry));
        clear_if_unused().unwrap();
    }
}
