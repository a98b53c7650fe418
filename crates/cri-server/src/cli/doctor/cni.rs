//! What pods would get as their network.

use cni::{Surveyed, SurveyedNetwork};

use super::Subject;
use super::finding::{Finding, may};

const NO_NETWORK: &str =
    "the node reports NetworkReady=false and pods with a network of their own are refused";

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let config = match crate::parts::network(subject.config) {
        Ok(config) => config,
        Err(faults) => {
            let lack = may(NO_NETWORK, "knarr config check");
            return vec![Finding::lacks("network", faults.to_string(), lack)];
        }
    };
    let mut found = Vec::new();
    if let Some(builtin) = &config.builtin {
        found.push(Finding::ok("network", format!("built in, bridge {}", builtin.bridge)));
    }
    found.extend(cni::survey(&config).iter().flat_map(directory));
    found
}

fn directory(Surveyed { dir, handlers, networks }: &Surveyed) -> Vec<Finding> {
    let what = handlers.first().map_or_else(|| "network".to_owned(), |handler| format!("network {handler}"));
    match networks {
        Err(error) => {
            let lack =
                may(NO_NETWORK, "correct that file: the first by name counts, and no other takes its place");
            vec![Finding::lacks(what, crate::chain(error), lack)]
        }
        Ok(networks) if networks.is_empty() => {
            let lack =
                may(NO_NETWORK, "install a CNI network (see docs/install.md), or set network.builtin = true");
            vec![Finding::lacks(what, format!("nothing is configured in {}", dir.display()), lack)]
        }
        Ok(networks) => networks.iter().map(|network| one(&what, network)).collect(),
    }
}

fn one(what: &str, SurveyedNetwork { name, version, plugins, missing }: &SurveyedNetwork) -> Finding {
    match missing {
        None => Finding::ok(what, format!("{name}, CNI {version}: {}", plugins.join(", "))),
        Some(error) => {
            let lack = may(
                NO_NETWORK,
                "install the plugin there (containernetworking-plugins), set cni_bin_dir, or network.native = true for bridge, host-local and portmap",
            );
            Finding::lacks(what, format!("{name}: {}", crate::chain(error)), lack)
        }
    }
}
