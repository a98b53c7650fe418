//! Who an entry of the tables or a link belongs to.

use crate::request::Request;

/// An attachment of a network, as it is written beside what is its own: `<network>/<container id>/<ifname>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) network: String,
    pub(super) container_id: String,
    pub(super) ifname: String,
}

impl Owner {
    /// Whom a request is about.
    pub(super) fn of(request: &Request) -> Owner {
        Owner {
            network: request.network().to_owned(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        }
    }

    /// Reads what [`Owner`]'s display wrote; none of the three can hold what separates them.
    pub(super) fn parse(text: &str) -> Option<Owner> {
        let mut parts = text.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let owner = Owner { network: part()?, container_id: part()?, ifname: part()? };
        parts.next().is_none().then_some(owner)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}
