//! `systemd` as who makes the scopes that `sandbox` asks for.

use std::sync::Arc;

use async_trait::async_trait;
use sandbox::{Scope, ScopeError, Scopes};
use systemd::Manager;

/// Scopes of this machine's systemd.
#[derive(Debug)]
pub(crate) struct SystemdScopes(pub(crate) Manager);

#[async_trait]
impl Scopes for SystemdScopes {
    async fn start(&self, scope: &Scope) -> Result<(), ScopeError> {
        let Scope { name, slice, description, pid } = scope.clone();
        self.0.start_scope(&systemd::Scope { name, slice, description, pid }).await.map_err(failure)
    }

    async fn end(&self, name: &str) -> Result<(), ScopeError> {
        self.0.end_scope(name).await.map_err(failure)
    }

    async fn list(&self, pattern: &str) -> Result<Vec<(String, String)>, ScopeError> {
        let units = self.0.list(pattern).await.map_err(failure)?;
        Ok(units.into_iter().map(|unit| (unit.name, unit.description)).collect())
    }
}

fn failure(error: systemd::Error) -> ScopeError {
    match error {
        late @ systemd::Error::Deadline { .. } => ScopeError::Deadline(Arc::new(late)),
        other => ScopeError::Failed(Arc::new(other)),
    }
}
