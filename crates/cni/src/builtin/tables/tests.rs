use super::netns::{on_own_host, sh};
use super::turn::once_each;
use super::*;
use crate::builtin::link::octets;
use crate::builtin::netlink::{Message, spent};
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

/// Whoever looks for what others have taken away reads nothing as long as it is only we who change anything.
#[test]
fn what_others_have_changed_is_told_from_what_we_have() {
    on_own_host(|| async {
        let addresses = ["10.0.0.1".parse().unwrap()];
        let mut mark = None;
        // Whether others have meddled, and what that took to find out.
        let mut look = || {
            let mut found = false;
            let (requests, _) = spent::by(|| {
                let (next, have_meddled) = have_others_meddled(mark, &addresses).unwrap().unwrap();
                (mark, found) = (Some(next), have_meddled);
            });
            (found, requests)
        };
        let grant_to = |key: u8| {
            let chain =
                Branch { family: Family::Ipv4, name: "a".into(), rules: vec![Rule::default().masquerade()] };
            let (owner, none) = (format!("n/{key}/eth0"), |_: &Placed| false);
            grant(&Wish { branches: vec![chain], ..wish(&owner, vec![placed(key, "a", &owner)], &none) })
                .unwrap();
        };
        let withdraw_from = |key: u8| {
            let owner = format!("n/{key}/eth0");
            withdraw(Sight::Maps(&[Map::Masquerade]), |of| of == owner).unwrap();
        };
        let others = || sh("nft add table ip others; nft delete table ip others");
        grant_to(1);
        assert!(look().0, "the first time there is no telling");
        assert_eq!(look(), (false, 1));
        grant_to(2);
        grant_to(3);
        withdraw_from(1);
        assert_eq!(look(), (false, 1), "all of that was ours");
        others();
        grant_to(4);
        let (meddled, requests) = look();
        assert!(!meddled && requests > 1, "of others' there was nothing to us");
        // The guard's set goes with its table.
        let interface = Entry { key: vec![b'x'; 16], value: Value::Nothing, comment: String::new() };
        let interface = Placed { family: Family::Ipv4, map: Map::Localnet, entry: interface };
        let everything = Sight::Maps(&[Map::Masquerade, Map::Localnet]);
        grant(&Wish { sight: everything, ..wish("n/5/eth0", vec![interface], &|_| false) }).unwrap();
        for key in [2, 3, 4] {
            withdraw_from(key);
        }
        clear_if_unused().unwrap();
        assert!(sh("nft list ruleset").is_empty());
        grant_to(6);
        others();
        assert!(!look().0, "the table that we took away has come again");
        for meddling in [
            "flush map ip knarr masqueraded",
            "add element ip knarr masqueraded '{ 10.0.0.9 : goto a }'",
            "delete table ip knarr",
            "flush table ip knarr",
            "flush chain ip knarr guard",
        ] {
            grant_to(6);
            look();
            sh(&format!("nft {meddling}"));
            assert!(look().0, "{meddling}");
            // Whoever comes makes the rules again, and nothing else.
            grant_to(7);
            withdraw_from(7);
            others();
            assert!(!look().0, "{meddling}: that was told");
        }
    });
}

/// Somebody who commits all the time, as proxies and firewalls do that write rule by rule: who looks takes what is seen, and what
/// comes meanwhile is left to the next look.
#[test]
fn what_others_change_while_it_is_read_is_left_to_the_next_look() {
    on_own_host(|| async {
        let addresses = ["10.0.0.1".parse().unwrap()];
        let storm = || {
            let mut left = 200;
            move || {
                left -= 1;
                if left > 0 {
                    sh("nft add table ip others; nft delete table ip others");
                }
            }
        };
        let mut mark = None;
        let mut look = || {
            let (next, have_meddled) = have_others_meddled(mark, &addresses).unwrap().unwrap();
            mark = Some(next);
            have_meddled
        };
        let quiet = spent::by(&mut look).0;
        sh("nft add table ip others");
        let stormy = spent::with(storm(), || spent::by(&mut look).0);
        assert_eq!(stormy, quiet);
        assert_eq!(spent::by(&mut look).0, quiet, "what came meanwhile was to be looked at");
        assert_eq!(spent::by(&mut look).0, 1);
        let quiet = spent::by(|| Inventory::take().unwrap()).0;
        assert_eq!(spent::with(storm(), || spent::by(|| Inventory::take().unwrap()).0), quiet);
    });
}

/// Nor is anybody kept from their turn by it, whom it would have to start anew for; after a few times it is given up.
#[test]
fn who_looks_keeps_nobody_from_their_turn() {
    on_own_host(|| async {
        let grant_to = |key: u8| {
            let branches = vec![Branch {
                family: Family::Ipv4,
                name: "a".into(),
                rules: vec![Rule::default().masquerade()],
            }];
            let (owner, none) = (format!("n/{key}/eth0"), |_: &Placed| false);
            grant(&Wish { branches, ..wish(&owner, vec![placed(key, "a", &owner)], &none) }).unwrap();
        };
        grant_to(0);
        let addresses = ["10.0.0.1".parse().unwrap()];
        let quiet = spent::by(|| have_others_meddled(None, &addresses).unwrap().unwrap()).0;
        // The first of each time is for the generation.
        let at_second_of = |quiet: usize| {
            let mut request = 0;
            move || {
                request += 1;
                if request % quiet == 2 {
                    let key = u8::try_from(request / quiet + 1).unwrap();
                    let (done, wait) = std::sync::mpsc::channel();
                    std::thread::spawn(move || {
                        grant_to(key);
                        done.send(())
                    });
                    wait.recv_timeout(std::time::Duration::from_secs(10)).expect("a turn");
                }
            }
        };
        let look = || assert_eq!(have_others_meddled(None, &addresses).unwrap(), None);
        let (requests, _) = spent::with(at_second_of(quiet), || spent::by(look));
        assert_eq!(requests, 5 * quiet);
        let quiet = spent::by(|| Inventory::take().unwrap()).0;
        let (requests, _) = spent::with(at_second_of(quiet), || spent::by(|| Inventory::take().unwrap()));
        assert_eq!(requests, quiet);
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
