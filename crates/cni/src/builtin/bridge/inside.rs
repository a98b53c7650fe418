//! The interface inside the namespace: its settings, addresses and routes.

use std::net::IpAddr;
use std::time::Duration;

use crate::builtin::address::{self, Detection};
use crate::builtin::link::{self, Link, Mac};
use crate::builtin::netlink::Socket;
use crate::builtin::patience::Patience;
use crate::builtin::route;
use crate::builtin::steps::Steps;
use crate::builtin::sysctl;
use crate::error::Error;
use crate::result::{Cidr, IpConfig, Route};

/// How long a search for others that have an address may take: it takes the kernel a second or two.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// What the interface gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) ifname: &'a str,
    /// Its hardware address, unless it has been chosen before.
    pub(super) mac: Option<Mac>,
    pub(super) ips: &'a [IpConfig],
    pub(super) routes: &'a [Route],
    pub(super) detection: Detection,
}

/// Sets up an interface without addresses; returns it.
pub(super) fn set_up(ifname: &str) -> Result<Link, Error> {
    let mut socket = link::socket()?;
    let mut steps = Steps::default();
    link::set_up(&mut steps, ifname);
    steps.run(&mut socket)?;
    link::expect(&mut socket, ifname)
}

impl Inside<'_> {
    /// Does all of it, in the calling thread's namespace; returns the interface.
    pub(super) fn configure(&self) -> Result<Link, Error> {
        let v6 = self.ips.iter().any(|ip| !ip.address.address.is_ipv4());
        self.set(v6)?;
        let mut socket = link::socket()?;
        let found = link::expect(&mut socket, self.ifname)?;
        let mut steps = Steps::default();
        if let Some(mac) = self.mac {
            link::set_mac(&mut steps, self.ifname, mac);
        }
        for ip in self.ips {
            address::add(&mut steps, found.index, ip.address, self.detection);
        }
        // Behind the addresses: what it announces as it comes up is those.
        link::set_up(&mut steps, self.ifname);
        if v6 && self.detection == Detection::Perform {
            std::mem::take(&mut steps).run(&mut socket)?;
            self.settle(&mut socket, found.index)?;
        }
        for route in self.routes {
            let gw = route.gw.or_else(|| self.gateway(route.dst));
            route::add(&mut steps, found.index, &Route { gw, ..route.clone() });
        }
        steps.run(&mut socket)?;
        Ok(Link { mac: self.mac.or(found.mac), ..found })
    }

    /// The first gateway of that family.
    fn gateway(&self, dst: Cidr) -> Option<IpAddr> {
        let gateways = self.ips.iter().filter_map(|ip| ip.gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == dst.address.is_ipv4())
    }

    fn set(&self, v6: bool) -> Result<(), Error> {
        let ifname = self.ifname;
        let of_v6 = |name: &str| format!("ipv6/conf/{ifname}/{name}");
        // A neighbour's router advertisement must not become the pod's default route.
        sysctl::set(&of_v6("accept_ra"), "0")?;
        // Neighbours hear of the hardware address when the interface comes up.
        sysctl::try_set(&format!("ipv4/conf/{ifname}/arp_notify"), "1");
        match self.detection {
            Detection::Skip => sysctl::try_set(&of_v6("accept_dad"), "0"),
            Detection::Perform => {
                sysctl::try_set(&of_v6("enhanced_dad"), "1");
                sysctl::try_set(&of_v6("accept_dad"), "1");
            }
        }
        if v6 {
            for name in ["lo", ifname] {
                sysctl::ensure(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            }
            // Else an interface that is set down and up again would come back without its address.
            sysctl::try_set(&of_v6("keep_addr_on_down"), "1");
        }
        Ok(())
    }

    /// Waits until nobody else has been found to have the addresses.
    fn settle(&self, socket: &mut Socket, link: u32) -> Result<(), Error> {
        let mut patience = Patience::new(SETTLE_DEADLINE);
        loop {
            let held = address::list(socket)?;
            let of_link = || held.iter().filter(|held| held.link == link);
            if let Some(duplicate) = of_link().find(|held| held.is_duplicate) {
                return Err(self.unsettled(duplicate.address, "is another host's already"));
            }
            match of_link().find(|held| held.is_tentative) {
                None => return Ok(()),
                Some(_) if patience.pause() => {}
                Some(tentative) => {
                    return Err(self.unsettled(tentative.address, "is still being looked for elsewhere"));
                }
            }
        }
    }

    fn unsettled(&self, address: Cidr, problem: &str) -> Error {
        Error::Unlike { subject: "address", name: address.to_string(), problem: problem.to_owned() }
    }
}
