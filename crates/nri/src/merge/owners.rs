//! Whose each field is: who set it first, or took it over.
//!
//! The numbers of fields and the form in which validators are told are the interface's; a plugin that took something away stands with the
//! mark of removal.

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
        self.may_have(field)?;
        self.fields.simple.insert(field as i32, self.plugin.to_owned());
        Ok(())
    }

    /// Whether a field that has one value can be claimed.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn may_have(&self, field: Field) -> Result<(), Error> {
        self.free(self.fields.simple.get(&(field as i32)), || format!("{field:?}"))
    }

    /// Claims one of a field's entries.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn entry(&mut self, field: Field, key: &str) -> Result<(), Error> {
        self.may_have_entry(field, key)?;
        let owners = &mut self.fields.compound.entry(field as i32).or_default().owners;
        owners.insert(key.to_owned(), self.plugin.to_owned());
        Ok(())
    }

    /// Whether one of a field's entries can be claimed.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(crate) fn may_have_entry(&self, field: Field, key: &str) -> Result<(), Error> {
        let owners = self.fields.compound.get(&(field as i32));
        self.free(owners.and_then(|entries| entries.owners.get(key)), || format!("{field:?} {key:?}"))
    }

    /// Free is what is nobody's, and what the plugin itself has taken away from somebody.
    fn free(&self, owner: Option<&String>, field: impl Fn() -> String) -> Result<(), Error> {
        let Some(owner) = owner else { return Ok(()) };
        match api::removed(owner) {
            Some(remover) if remover == self.plugin => Ok(()),
            remover => {
                let (plugin, other) = (self.plugin.to_owned(), remover.unwrap_or(owner).to_owned());
                Err(Error::Conflict { plugin, other, field: field() })
            }
        }
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
