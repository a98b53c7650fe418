//! What is asked of systemd: org.freedesktop.systemd1.Manager.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::connection::Connection;
use crate::message::{Body, Call, Writer};
use crate::{Error, address};

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// No limit, as properties of 64 bits say it.
const NO_LIMIT: u64 = u64::MAX;

const SIGKILL: u32 = 9;

/// The result of a job that did what it was for.
const DONE: &str = "done";

/// A scope to be started. Everything in it is for systemd's eyes: none of it may come from a pod's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The unit's name, with `.scope` at its end.
    pub name: String,
    /// The slice that it goes into, with `.slice` at its end; made by systemd when it isn't there.
    pub slice: String,
    /// What lists of units show.
    pub description: String,
    /// The process that it begins with.
    pub pid: u32,
}

/// A unit in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// `active`, `inactive`, `failed` and others.
    pub state: String,
}

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
            let body = connection
                .call(&manager("StartTransientUnit", "ssa(sv)a(sa(sv))", properties(scope)))
                .await?;
            done(&scope.name, &jobs.result(body.read("o")?.string()?).await?)
        };
        self.within("starting a scope", work).await
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
        self.within("ending a scope", work).await
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
        self.within("weighing a unit", work).await
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
        self.within("listing units", work).await
    }

    /// Does work over the connection, which is made if need be. When the time is over, or nobody waits any more, the
    /// connection is given up: the bus passes on nothing of whom it has lost, and half a message would spoil those after it.
    async fn within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        what: &'static str,
        work: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, Error> {
        let unfinished = Unfinished(self);
        let begun = async { work(self.connected().await?).await };
        let outcome = tokio::time::timeout(self.deadline, begun).await;
        let outcome = outcome.map_err(|_| Error::Deadline { what, after: self.deadline })?;
        std::mem::forget(unfinished);
        outcome
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

/// Gives the connection up when it is dropped.
struct Unfinished<'a>(&'a Manager);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.kept().take() {
            connection.give_up();
        }
    }
}

fn manager(member: &'static str, signature: &'static str, body: Vec<u8>) -> Call<'static> {
    Call { destination: DESTINATION, path: PATH, interface: INTERFACE, member, signature, body }
}

fn done(unit: &str, result: &str) -> Result<(), Error> {
    if result == DONE {
        return Ok(());
    }
    Err(Error::Job { unit: unit.to_owned(), result: result.to_owned() })
}

/// The arguments of StartTransientUnit: name, mode, properties, further units.
fn properties(scope: &Scope) -> Vec<u8> {
    let mut arguments = Writer::default();
    arguments.string(&scope.name);
    arguments.string("fail");
    arguments.array(8, |properties| {
        for (name, value) in [
            ("Description", scope.description.as_str()),
            ("Slice", scope.slice.as_str()),
            // Not only what ended well.
            ("CollectMode", "inactive-or-failed"),
        ] {
            property(properties, name, "s", |to| to.string(value));
        }
        property(properties, "Delegate", "b", |to| to.uint32(1));
        // At shutdown pods are ended by whom they belong to (kubelet), not all at once before it.
        property(properties, "DefaultDependencies", "b", |to| to.uint32(0));
        // systemd's own default is a share of what the node has.
        property(properties, "TasksMax", "t", |to| to.uint64(NO_LIMIT));
        property(properties, "PIDs", "au", |to| to.array(4, |pids| pids.uint32(scope.pid)));
    });
    arguments.array(8, |_no_further_units| {});
    arguments.into_bytes()
}

fn property(to: &mut Writer, name: &str, kind: &str, value: impl FnOnce(&mut Writer)) {
    to.align(8);
    to.string(name);
    to.signature(kind);
    value(to);
}

/// The answer of ListUnitsByPatterns: name, description, load state, active state, sub-state, followed unit, path, and
/// the job that is queued for it with its number, type and path.
fn units(body: &Body) -> Result<Vec<Unit>, Error> {
    let mut reader = body.read("a(ssssssouso)")?;
    let end = reader.array(8)?;
    let mut units = Vec::new();
    while reader.is_before(end) {
        reader.align(8)?;
        let (name, description) = (reader.string()?.to_owned(), reader.string()?.to_owned());
        reader.string()?;
        let state = reader.string()?.to_owned();
        for _ in ["sub-state", "followed", "path"] {
            reader.string()?;
        }
        reader.uint32()?;
        for _ in ["type", "path"] {
            reader.string()?;
        }
        units.push(Unit { name, description, state });
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::message::{self, PREAMBLE, testing};

    /// What the stand-in for bus and systemd does with a call.
    #[derive(Clone, Copy)]
    enum Does {
        /// Answers without values.
        Nothing,
        /// Answers with a job, and ends that with a result before it answers.
        Job(&'static str),
        /// Answers with an error of this name.
        Refuses(&'static str),
        /// Answers with a list of two units.
        Lists,
        /// Never answers.
        Hangs,
        /// Hangs up.
        HangsUp,
    }

    struct Bus {
        _directory: tempfile::TempDir,
        manager: Manager,
        calls: Arc<Mutex<Vec<String>>>,
    }

    impl Bus {
        fn new(deadline: Duration, script: &[(&'static str, Does)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("bus");
            let listener = UnixListener::bind(&path).unwrap();
            let script = Arc::new(Mutex::new(script.iter().copied().collect::<VecDeque<_>>()));
            let calls = Arc::new(Mutex::new(Vec::new()));
            let heard = calls.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, script.clone(), heard.clone()));
                }
            });
            let manager = Manager::at(format!("unix:path={}", path.display()), deadline);
            Self { _directory: directory, manager, calls }
        }

        fn calls(&self) -> Vec<String> {
            self.calls.lock().unwrap().clone()
        }
    }

    type Script = Arc<Mutex<VecDeque<(&'static str, Does)>>>;

    async fn serve(mut stream: UnixStream, script: Script, heard: Arc<Mutex<Vec<String>>>) {
        let mut talk = [0; 16];
        stream.read_exact(&mut talk).await.unwrap();
        assert_eq!(&talk, b"\0AUTH EXTERNAL\r\n");
        stream.write_all(b"DATA\r\n").await.unwrap();
        stream.read_exact(&mut talk[..6]).await.unwrap();
        stream.write_all(b"OK 0123\r\n").await.unwrap();
        stream.read_exact(&mut talk[..7]).await.unwrap();
        assert_eq!(&talk[..7], b"BEGIN\r\n");
        let mut preamble = [0; PREAMBLE];
        while stream.read_exact(&mut preamble).await.is_ok() {
            let mut bytes = preamble.to_vec();
            let mut rest = vec![0; message::rest(&preamble).unwrap()];
            stream.read_exact(&mut rest).await.unwrap();
            bytes.extend(rest);
            let (serial, member) = testing::call(&bytes);
            heard.lock().unwrap().push(member.clone());
            let does = {
                let mut script = script.lock().unwrap();
                let is_next = script.front().is_some_and(|(awaited, _)| *awaited == member);
                is_next.then(|| script.pop_front()).flatten().map_or(Does::Nothing, |(_, does)| does)
            };
            let mut body = Writer::default();
            let answer = match does {
                Does::Nothing => testing::reply(serial, "", &[]),
                Does::Hangs => continue,
                Does::HangsUp => return,
                Does::Refuses(name) => {
                    body.string("so it is");
                    testing::error(serial, name, &body.into_bytes())
                }
                Does::Job(result) => {
                    // Jobs of others, and of this unit, end all the time.
                    for (job, unit, result) in [
                        ("/j/1", "x.scope", "failed"),
                        ("/j/2", "y.scope", "done"),
                        ("/j/7", "x.scope", result),
                    ] {
                        let mut signal = Writer::default();
                        signal.uint32(7);
                        [job, unit, result].into_iter().for_each(|text| signal.string(text));
                        let signal = testing::signal(INTERFACE, "JobRemoved", "uoss", &signal.into_bytes());
                        stream.write_all(&signal).await.unwrap();
                    }
                    body.string("/j/7");
                    testing::reply(serial, "o", &body.into_bytes())
                }
                Does::Lists => {
                    body.array(8, |units| {
                        for name in ["a.scope", "b.scope"] {
                            units.align(8);
                            [name, "of us", "loaded", "active", "running", "", "/u"]
                                .into_iter()
                                .for_each(|text| units.string(text));
                            units.uint32(0);
                            ["", "/"].into_iter().for_each(|text| units.string(text));
                        }
                    });
                    testing::reply(serial, "a(ssssssouso)", &body.into_bytes())
                }
            };
            stream.write_all(&answer).await.unwrap();
        }
    }

    fn scope() -> Scope {
        Scope { name: "x.scope".into(), slice: "s.slice".into(), description: "d".into(), pid: 1 }
    }

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_scope_is_started_when_its_job_is_done() {
        let bus =
            Bus::new(LATE, &[("StartTransientUnit", Does::Job("done")), ("StopUnit", Does::Job("done"))]);
        bus.manager.start_scope(&scope()).await.unwrap();
        bus.manager.end_scope("x.scope").await.unwrap();
        assert_eq!(
            bus.calls(),
            [
                "Hello",
                "AddMatch",
                "Subscribe",
                "StartTransientUnit",
                "KillUnit",
                "StopUnit",
                "ResetFailedUnit"
            ],
            "one connection, and a call for a scope"
        );
    }

    #[tokio::test]
    async fn what_systemd_says_is_told() {
        let exists = "org.freedesktop.systemd1.UnitExists";
        let gone = Does::Refuses("org.freedesktop.systemd1.NoSuchUnit");
        let bus = Bus::new(
            LATE,
            &[
                ("StartTransientUnit", Does::Job("failed")),
                ("StartTransientUnit", Does::Refuses(exists)),
                ("KillUnit", gone),
                ("StopUnit", gone),
                ("StopUnit", Does::Job("done")),
                ("ResetFailedUnit", gone),
                ("StopUnit", Does::Refuses("org.freedesktop.DBus.Error.AccessDenied")),
                ("ListUnitsByPatterns", Does::Lists),
            ],
        );
        let error = bus.manager.start_scope(&scope()).await.unwrap_err();
        assert_eq!(error.to_string(), "the job for \"x.scope\" ended with \"failed\"");
        let error = bus.manager.start_scope(&scope()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("StartTransientUnit is refused: so it is ({exists})"));
        bus.manager.end_scope("x.scope").await.unwrap();
        bus.manager.end_scope("x.scope").await.unwrap();
        assert!(matches!(
            bus.manager.end_scope("x.scope").await,
            Err(Error::Call { method: "StopUnit", .. })
        ));
        let units = bus.manager.list("*").await.unwrap();
        assert_eq!(units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(), ["a.scope", "b.scope"]);
        assert_eq!((units[1].description.as_str(), units[1].state.as_str()), ("of us", "active"));
    }

    #[tokio::test]
    async fn silence_ends_with_the_deadline_and_the_connection() {
        for (at, member) in ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"].into_iter().enumerate() {
            let bus = Bus::new(SOON, &[(member, Does::Hangs), ("StartTransientUnit", Does::Job("done"))]);
            let begun = std::time::Instant::now();
            let scope = scope();
            let both = tokio::join!(bus.manager.start_scope(&scope), bus.manager.list("*"));
            assert!(matches!(both.0, Err(Error::Deadline { after: SOON, .. })), "{member}: {both:?}");
            assert!(begun.elapsed() < LATE / 2, "{:?}", begun.elapsed());
            bus.manager.start_scope(&scope).await.unwrap();
            assert_eq!(
                bus.calls().iter().filter(|call| *call == "Hello").count(),
                2,
                "{at}: a new connection"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_that_broke_is_made_again() {
        let bus = Bus::new(
            LATE,
            &[("StartTransientUnit", Does::HangsUp), ("StartTransientUnit", Does::Job("done"))],
        );
        assert!(matches!(bus.manager.start_scope(&scope()).await, Err(Error::Closed)));
        bus.manager.start_scope(&scope()).await.unwrap();
        let nobody = Manager::at("unix:path=/not/there".into(), LATE);
        assert!(matches!(nobody.list("*").await, Err(Error::Connect { .. })));
    }
}
