//! What is asked of systemd: org.freedesktop.systemd1.Manager.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::connection::Connection;
use crate::incoming::{MANAGER, SYSTEMD};
use crate::message::{Call, Writer};
use crate::units::{Scope, Unit, property, start, units};
use crate::{Error, address};

const PATH: &str = "/org/freedesktop/systemd1";

const SIGKILL: u32 = 9;

/// The result of a job that did what it was for.
const DONE: &str = "done";

/// systemd on this machine.
#[derive(Debug)]
pub struct Manager {
    address: String,
    deadline: Duration,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held by whoever connects: one connection is enough.
    connecting: tokio::sync::Mutex<()>,
}

impl Manager {
    /// systemd behind the system bus, or behind the bus that the environment names in `DBUS_SYSTEM_BUS_ADDRESS`. Each
    /// method has `deadline` for all that it does. Nothing is connected yet.
    pub fn new(deadline: Duration) -> Self {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|address| !address.is_empty());
        Self::at(address.unwrap_or_else(|| address::SYSTEM_BUS.to_owned()), deadline)
    }

    /// The same behind another bus.
    pub fn at(address: String, deadline: Duration) -> Self {
        Self { address, deadline, connection: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Starts a scope around a process and waits until the process is in it. Its cgroup is delegated: what is below it is
    /// the caller's. It goes by itself when nothing runs in it any more, also when it failed.
    ///
    /// Safe to cancel; the process has to be ended then.
    ///
    /// # Errors
    /// Those of the connection, systemd's answer, the job's result, [`Error::Deadline`].
    pub async fn start_scope(&self, scope: &Scope) -> Result<(), Error> {
        let work = |connection: Arc<Connection>| async move {
            // Before the call: the job may be over before its answer is read.
            let mut jobs = connection.jobs(&scope.name);
            let body =
                connection.call(&manager("StartTransientUnit", "ssa(sv)a(sa(sv))", start(scope))).await?;
            done(&scope.name, &jobs.result(body.read("o")?.string()?).await?)
        };
        // Not repeated: it may have been started.
        self.within("starting a scope", self.once(work)).await
    }

    /// Ends everything in a scope at once (SIGKILL) and waits until the unit has stopped; one that failed is forgotten. One
    /// that there is not has ended.
    ///
    /// Safe to cancel, and to repeat.
    ///
    /// # Errors
    /// As for [`Manager::start_scope`].
    pub async fn end_scope(&self, name: &str) -> Result<(), Error> {
        let work = |connection: Arc<Connection>| async move {
            let mut arguments = Writer::default();
            [name, "all"].into_iter().for_each(|text| arguments.string(text));
            arguments.uint32(SIGKILL);
            match connection.call(&manager("KillUnit", "ssi", arguments.into_bytes())).await {
                // One that has no processes is stopped all the same.
                Ok(_) | Err(Error::Call { .. }) => {}
                Err(error) => return Err(error),
            }
            let mut jobs = connection.jobs(name);
            let mut arguments = Writer::default();
            [name, "replace"].into_iter().for_each(|text| arguments.string(text));
            match connection.call(&manager("StopUnit", "ss", arguments.into_bytes())).await {
                Ok(body) => done(name, &jobs.result(body.read("o")?.string()?).await?)?,
                Err(error) if error.is_no_such_unit() => return Ok(()),
                Err(error) => return Err(error),
            }
            let mut arguments = Writer::default();
            arguments.string(name);
            match connection.call(&manager("ResetFailedUnit", "s", arguments.into_bytes())).await {
                // It goes when it is stopped, unless it failed under a systemd that keeps such units.
                Err(error) if !error.is_no_such_unit() => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        self.within("ending a scope", self.repeatedly(work)).await
    }

    /// Sets the CPU weight of a unit's cgroup, 1 to 10000, until the unit goes. Safe to cancel.
    ///
    /// # Errors
    /// As for [`Manager::start_scope`].
    pub async fn set_cpu_weight(&self, unit: &str, weight: u64) -> Result<(), Error> {
        let work = |connection: Arc<Connection>| async move {
            let mut arguments = Writer::default();
            arguments.string(unit);
            // Not beyond the next boot.
            arguments.uint32(1);
            arguments.array(8, |properties| {
                property(properties, "CPUWeight", "t", |to| to.uint64(weight));
            });
            let call = manager("SetUnitProperties", "sba(sv)", arguments.into_bytes());
            connection.call(&call).await.map(drop)
        };
        self.within("weighing a unit", self.repeatedly(work)).await
    }

    /// The units whose names match a pattern of fnmatch(3). Safe to cancel.
    ///
    /// # Errors
    /// As for [`Manager::start_scope`].
    pub async fn list(&self, pattern: &str) -> Result<Vec<Unit>, Error> {
        let work = |connection: Arc<Connection>| async move {
            let mut arguments = Writer::default();
            arguments.array(4, |_any_state| {});
            arguments.array(4, |patterns| patterns.string(pattern));
            let call = manager("ListUnitsByPatterns", "asas", arguments.into_bytes());
            units(&connection.call(&call).await?)
        };
        self.within("listing units", self.repeatedly(work)).await
    }

    /// Gives work the time that there is for it. A call that is not answered by then gives up the connection that it was made
    /// over, see [`Connection::call`]; who only waits for the end of a job takes nothing from anybody.
    async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let outcome = tokio::time::timeout(self.deadline, work).await;
        outcome.map_err(|_| Error::Deadline { what, after: self.deadline })?
    }

    /// Does work over the connection, which is made if need be.
    async fn once<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, Error> {
        work(self.connected().await?).await
    }

    /// The same for what may be done twice: once more when the connection ends, which may be for what somebody else has asked.
    async fn repeatedly<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, Error> {
        match self.once(&work).await {
            Err(Error::Closed) => self.once(work).await,
            outcome => outcome,
        }
    }

    async fn connected(&self) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let _alone = self.connecting.lock().await;
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let connection = Arc::new(Connection::open(&self.address).await?);
        // Else systemd doesn't send signals at all.
        connection.call(&manager("Subscribe", "", Vec::new())).await?;
        *self.kept() = Some(connection.clone());
        Ok(connection)
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        self.kept().as_ref().filter(|connection| !connection.is_over()).cloned()
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn manager(member: &'static str, signature: &'static str, body: Vec<u8>) -> Call<'static> {
    Call { destination: SYSTEMD, path: PATH, interface: MANAGER, member, signature, body }
}

fn done(unit: &str, result: &str) -> Result<(), Error> {
    if result == DONE {
        return Ok(());
    }
    Err(Error::Job { unit: unit.to_owned(), result: result.to_owned() })
}
