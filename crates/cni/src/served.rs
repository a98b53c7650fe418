//! A network as an attachment is made in it: its chain, and by which means the plugins are carried out.

use std::path::Path;
use std::sync::Arc;

use crate::attachment::Attachment;
use crate::builtin;
use crate::builtin_network::BuiltinNetwork;
use crate::cache::{Record, Via};
use crate::carrier::{Carrier, Means};
use crate::conf::{self, NetworkConf};
use crate::error::Error;
use crate::network::Chain;

/// A network, and how its plugins are carried out.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) conf: Arc<NetworkConf>,
    pub(crate) carrier: Carrier,
}

/// A network that an attachment can be made in.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) served: Served,
    /// What a record needs to find it again.
    pub(crate) via: Via,
}

impl Served {
    /// The built-in network, with addresses below that directory.
    ///
    /// # Errors
    /// [`Error::InvalidConf`].
    pub(crate) fn builtin(
        settings: &BuiltinNetwork,
        addresses: &Path,
        carrier: &Carrier,
        mtu: Option<u32>,
    ) -> Result<Served, Error> {
        let conf = Arc::new(settings.conf(addresses, mtu)?);
        Ok(Served { conf, carrier: carrier.by(Means::Native) })
    }

    /// The network of a record, by the means that it was attached by.
    ///
    /// # Errors
    /// [`Error::InvalidConf`].
    pub(crate) fn of(record: &Record, addresses: &Path, carrier: &Carrier) -> Result<Served, Error> {
        match &record.via {
            Via::Builtin(settings) => Served::builtin(settings, addresses, carrier, None),
            Via::Chain(value) => {
                let means = if record.native { Means::Native } else { Means::Executed };
                let conf = Arc::new(conf::parse(Path::new(&record.network), value)?);
                Ok(Served { conf, carrier: carrier.by(means) })
            }
        }
    }

    /// The chain at work on an attachment.
    pub(crate) fn chain<'a>(&'a self, attachment: &'a Attachment) -> Chain<'a> {
        Chain { conf: &self.conf, carrier: &self.carrier, attachment }
    }

    /// Whether its standard plugins are served in-process.
    pub(crate) fn is_native(&self) -> bool {
        self.carrier.means == Means::Native
    }

    /// Whether nothing of it is executed, so that its end can be told apart from its cutting off.
    pub(crate) fn is_native_throughout(&self) -> bool {
        self.conf.plugins.iter().all(|plugin| self.carrier.serves(plugin))
    }

    /// Whether an attachment has entries in the tables that are ours.
    pub(crate) fn uses_tables(&self, attachment: &Attachment) -> bool {
        let masquerades = self.conf.plugins.iter().any(|plugin| builtin::masquerades(&plugin.fields));
        self.is_native() && (masquerades || !attachment.port_mappings.is_empty())
    }
}

impl Chosen {
    /// One of a directory.
    pub(crate) fn chain(conf: Arc<NetworkConf>, carrier: &Carrier) -> Chosen {
        let via = Via::Chain(conf.to_value());
        Chosen { served: Served { conf, carrier: carrier.clone() }, via }
    }
}
