//! Whose each field is: who set it first, or took it over.
//!
//! The numbers of fields and the form in which validators are told are the interface's; a plugin that took something away stands with the
//! mark of removal.

use std::collections::btree_map::Entry;

use crate::api::{self, Field, FieldOwners};
use crate::error::Error;

/// Whose the fields of all containers are that one request is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(api::OwningPlugins);

/// What one plugin claims of one container.
pub(crate) struct Claim<'a> {
    plugin: &'a str,
    fields: &'a mut FieldOwners,
}

impl Owners {
    pub(crate) fn claim<'a>(&'a mut self, container: &str, plugin: &'a str) -> Claim<'a> {
        Claim { plugin, fields: self.0.owners.entry(container.to_owned()).or_default() }
    }

    /// For validators.
    pub(crate) fn told(&self) -> api::OwningPlugins {
        self.0.clone()
    }
}

impl Claim<'_> {
    /// Claims a field that has one value.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn field(&mut self, field: Field) -> Result<(), Error> {
        take(self.plugin, self.fields.simple.entry(field as i32), || format!("{field:?}"))
    }

    /// Claims one of a field's entries.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn entry(&mut self, field: Field, key: &str) -> Result<(), Error> {
        let owners = &mut self.fields.compound.entry(field as i32).or_default().owners;
        take(self.plugin, owners.entry(key.to_owned()), || format!("{field:?} {key:?}"))
    }

    /// Takes a field away from whose it is.
    pub(crate) fn clear(&mut self, field: Field) {
        self.fields.simple.insert(field as i32, api::remove(self.plugin));
    }

    /// Takes an entry away from whose it is. One that no plugin has set stays free for the next, but for namespaces, as the interface has it.
    pub(crate) fn clear_entry(&mut self, field: Field, key: &str) {
        let owners = &mut self.fields.compound.entry(field as i32).or_default().owners;
        if field == Field::Namespace || owners.contains_key(key) {
            owners.insert(key.to_owned(), api::remove(self.plugin));
        }
    }

    /// Sets a field that may be several plugins': they are told separated by commas.
    pub(crate) fn share(&mut self, field: Field) {
        let owners = self.fields.simple.entry(field as i32).or_default();
        let separator = if owners.is_empty() { "" } else { "," };
        *owners = format!("{owners}{separator}{}", self.plugin);
    }
}

fn take<K: Ord>(plugin: &str, place: Entry<'_, K, String>, field: impl Fn() -> String) -> Result<(), Error> {
    match place {
        Entry::Vacant(free) => {
            free.insert(plugin.to_owned());
            Ok(())
        }
        Entry::Occupied(mut taken) => match api::removed(taken.get()) {
            Some(remover) if remover == plugin => {
                taken.insert(plugin.to_owned());
                Ok(())
            }
            remover => {
                let other = remover.unwrap_or(taken.get()).to_owned();
                Err(Error::Conflict { plugin: plugin.to_owned(), other, field: field() })
            }
        },
    }
}
