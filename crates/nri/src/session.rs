//! A plugin's way in: it connects, or is started with a connection, registers, is configured, and waits to be let in by the hub.
//!
//! ```text
//! socket ─► RegisterPlugin (by the plugin) ─► Configure ─► join ─► (hub) Synchronize ─► events, until the connection ends
//!    └────── registration time-out ──────┘
//! ```
//! Not here: letting in, and events (see `hub`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::api::{self, Events};
use crate::connection::{CallError, Connection, Service};
use crate::gate::Gate;
use crate::hub::{Core, Message as Word};
use crate::plugin::{Name, Plugin};
use crate::ttrpc::{Request, Status, code};

/// A plugin that was started by this runtime: its name and its configuration are known before.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: Name,
    pub(crate) config: String,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Serves a plugin until its connection ends. `joined` hears when it was let in, or is dropped.
pub(crate) async fn serve(
    core: Arc<Core>,
    socket: UnixStream,
    known: Option<Known>,
    joined: oneshot::Sender<()>,
) {
    let (connection, reader) = Connection::new(socket, api::PLUGIN_SERVICE);
    let (told, registered) = oneshot::channel();
    let service = Arc::new(Runtime {
        core: core.clone(),
        state: Mutex::new(State { told: Some(told), name: known.as_ref().map(|known| known.name.clone()) }),
        is_in: watch::Sender::new(false),
    });
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let entrance = Entrance { core: &core, connection: &connection, service: &service, number };
    let way_in = async {
        if let Err(why) = entrance.pass(registered, known.as_ref(), joined).await {
            tracing::warn!(plugin = %service.name(), error = %why, "a plugin is not let in");
            connection.end(why);
        }
        std::future::pending::<()>().await;
    };
    let why = tokio::select! {
        why = connection.run(reader, service.clone()) => why,
        () = way_in => String::new(),
    };
    core.send(Word::Left(number));
    tracing::info!(plugin = %service.name(), reason = why, "a plugin is gone");
}

struct Entrance<'a> {
    core: &'a Arc<Core>,
    connection: &'a Connection,
    service: &'a Runtime,
    number: u64,
}

impl Entrance<'_> {
    /// From the first byte to being let in.
    async fn pass(
        &self,
        registered: oneshot::Receiver<Result<Name, String>>,
        known: Option<&Known>,
        joined: oneshot::Sender<()>,
    ) -> Result<(), String> {
        let config = &self.core.config;
        let name = match tokio::time::timeout(config.registration_timeout, registered).await {
            Err(_) => return Err(format!("it has not registered within {:?}", config.registration_timeout)),
            Ok(told) => told.map_err(|_| "it has not registered".to_owned())??,
        };
        let events = self.configure(known).await?;
        let (connection, patience) = (self.connection.clone(), config.request_timeout);
        let (number, spent) = (self.number, Default::default());
        let plugin = Plugin { name, connection, events, patience, number, spent };
        let _seat = Seat::take(&self.core.gate);
        let (answer, let_in) = oneshot::channel();
        self.core.send(Word::Join(Box::new(plugin), answer));
        let_in.await.map_err(|_| "the runtime goes down".to_owned())??;
        self.service.is_in.send_replace(true);
        let _nobody_waits = joined.send(());
        std::future::pending::<Result<(), String>>().await
    }

    async fn configure(&self, known: Option<&Known>) -> Result<Events, String> {
        let config = &self.core.config;
        let milliseconds = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = api::ConfigureRequest {
            config: known.map(|known| known.config.clone()).unwrap_or_default(),
            runtime_name: config.runtime_name.clone(),
            runtime_version: config.runtime_version.clone(),
            registration_timeout: milliseconds(config.registration_timeout),
            request_timeout: milliseconds(config.request_timeout),
            nri_version: crate::VERSION.to_owned(),
        };
        let answer = self.connection.call("Configure", &request, config.request_timeout).await;
        let answer: api::ConfigureResponse =
            answer.map_err(|error: CallError| format!("Configure: {error}"))?;
        Events::new(answer.events)
            .map_err(|bits| format!("it wants events that are not known here: {bits:#x}"))
    }
}

/// A plugin that is counted; dropping it counts it out.
struct Seat<'a>(&'a Gate);

impl<'a> Seat<'a> {
    fn take(gate: &'a Gate) -> Self {
        gate.enter();
        Self(gate)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// What a plugin may call, by how far it has come.
struct Runtime {
    core: Arc<Core>,
    state: Mutex<State>,
    /// Whether it was told all that there is.
    is_in: watch::Sender<bool>,
}

struct State {
    /// Who waits to hear who it is, until it has said so.
    told: Option<oneshot::Sender<Result<Name, String>>>,
    /// Known before of one that was started here.
    name: Option<Name>,
}

impl Runtime {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What messages call it.
    fn name(&self) -> String {
        self.state().name.as_ref().map_or_else(|| "without a name".to_owned(), ToString::to_string)
    }

    /// Waits until it was told all that there is: a plugin may have answered to that and not know that it is in.
    async fn let_in(&self) -> Result<(), Status> {
        let mut is_in = self.is_in.subscribe();
        let is_in = is_in.wait_for(|is_in| *is_in);
        match tokio::time::timeout(self.core.config.registration_timeout, is_in).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(status(code::FAILED_PRECONDITION, "it has not been told of any container yet".into())),
        }
    }

    fn register(&self, request: &api::RegisterPluginRequest) -> Result<(), Status> {
        let mut state = self.state();
        let Some(told) = state.told.take() else {
            return Err(status(code::FAILED_PRECONDITION, "it is registered already".into()));
        };
        let name = who(state.name.clone(), request);
        state.name = name.clone().ok();
        let _has_gone = told.send(name.clone());
        name.map(|_| ()).map_err(|why| status(code::INVALID_ARGUMENT, why))
    }
}

/// Who a plugin is: its file's name goes before what it says of itself, which may be anything then.
///
/// # Errors
/// What is wrong with its name.
fn who(known: Option<Name>, says: &api::RegisterPluginRequest) -> Result<Name, String> {
    known.map_or_else(|| Name::new(&says.plugin_idx, &says.plugin_name), Ok)
}

fn status(code: i32, message: String) -> Status {
    Status { code, message }
}

fn read<M: Message + Default>(request: &Request) -> Result<M, Status> {
    crate::bounds::check(&request.method, &request.payload)
        .map_err(|why| status(code::RESOURCE_EXHAUSTED, why))?;
    M::decode(request.payload.as_slice()).map_err(|error| status(code::INVALID_ARGUMENT, error.to_string()))
}

#[async_trait]
impl Service for Runtime {
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status> {
        if request.service != api::RUNTIME_SERVICE {
            return Err(status(code::UNIMPLEMENTED, format!("no service {:?}", request.service)));
        }
        match request.method.as_str() {
            "RegisterPlugin" => {
                self.register(&read(&request)?)?;
                Ok(api::Empty {}.encode_to_vec())
            }
            "UpdateContainers" => {
                self.let_in().await?;
                let asked: api::UpdateContainersRequest = read(&request)?;
                let failed = self.core.unsolicited(asked).await?;
                Ok(api::UpdateContainersResponse { failed }.encode_to_vec())
            }
            other => Err(status(code::UNIMPLEMENTED, format!("no method {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_started_is_called_as_its_file_is_whatever_it_says() {
        let says = |index: &str, name: &str| api::RegisterPluginRequest {
            plugin_name: name.into(),
            plugin_idx: index.into(),
            ..Default::default()
        };
        let file = Name::of_file("10-file").unwrap();
        assert_eq!(who(Some(file.clone()), &says("", "a name/of its own")), Ok(file));
        assert!(who(None, &says("", "a name/of its own")).is_err());
        assert_eq!(who(None, &says("20", "other")).unwrap().to_string(), "20-other");
    }
}
