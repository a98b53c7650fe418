//! What plugins are asked and told, one after the other.

use super::{About, Answer, Hub, News, Question, Reply};
use crate::api::{self, Event};
use crate::error::Error;
use crate::merge::{Change, Creation, Others};
use crate::plugin::{Plugin, method};

impl Hub {
    pub(super) async fn answer(&mut self, question: Question, reply: Reply) {
        // Who asked has given it up: its end was told already, and nobody is to hear of its beginning after that.
        if question.opens_window() && reply.is_closed() {
            return;
        }
        let _has_gone = reply.send(self.ask(question).await);
    }

    async fn ask(&self, question: Question) -> Result<Answer, Error> {
        match question {
            Question::RunPod(pod) => {
                let request = api::RunPodSandboxRequest { pod: Some(pod.clone()) };
                self.ask_all(Event::RunPodSandbox, &request, || (pod.clone(), None)).await?;
                Ok(Answer { window: Some(self.core.gate.open()), ..Answer::nothing() })
            }
            Question::UpdatePod(request) => {
                let about = || (request.pod.clone().unwrap_or_default(), None);
                self.ask_all(Event::UpdatePodSandbox, &*request, about).await
            }
            Question::StopPod(pod) => {
                let request = api::StopPodSandboxRequest { pod: Some(pod.clone()) };
                self.ask_all(Event::StopPodSandbox, &request, || (pod.clone(), None)).await
            }
            Question::Start(request) => {
                let about = || (request.pod.clone().unwrap_or_default(), request.container.clone());
                self.ask_all(Event::StartContainer, &*request, about).await
            }
            Question::Create(request) => self.create(*request).await,
            Question::Update(request) => self.update(*request).await,
        }
    }

    /// Asks all of them; the first one that refuses has the last word.
    async fn ask_all(
        &self,
        event: Event,
        request: &impl prost::Message,
        about: impl Fn() -> About + Send + Sync,
    ) -> Result<Answer, Error> {
        for plugin in &self.plugins {
            plugin.tell(event, request, || old(event, about())).await?;
        }
        Ok(Answer::nothing())
    }

    async fn create(&self, request: api::CreateContainerRequest) -> Result<Answer, Error> {
        let container = request.container.unwrap_or_default();
        let mut creation = Creation::new(container.clone());
        for plugin in &self.plugins {
            let question = api::CreateContainerRequest {
                pod: request.pod.clone(),
                container: Some(creation.seen.clone()),
            };
            if let Some(answer) = plugin.ask(Event::CreateContainer, &question).await? {
                creation.add(&plugin.name.to_string(), answer)?;
            }
        }
        let Creation { adjust, others: Others { owners, updates, evictions, .. }, .. } = creation;
        let validation = api::ValidateContainerAdjustmentRequest {
            pod: request.pod,
            container: Some(container),
            adjust: Some(adjust),
            update: updates,
            owners: Some(owners.told()),
            // One that was cut off meanwhile has not been asked to the end.
            plugins: self
                .plugins
                .iter()
                .filter(|plugin| plugin.connection.ended().is_none())
                .map(instance)
                .collect(),
        };
        self.validate(&validation).await?;
        let window = Some(self.core.gate.open());
        let adjust = validation.adjust.unwrap_or_default();
        let others = self.core.want(validation.update, evictions);
        Ok(Answer { adjust, others, window, ..Answer::nothing() })
    }

    /// One that doesn't answer rejects: whoever relies on it must not find it passed over.
    async fn validate(&self, request: &api::ValidateContainerAdjustmentRequest) -> Result<(), Error> {
        if let Some(validator) = &self.core.config.validator {
            let rejected = |why| Error::Rejected { validator: "the default validator".to_owned(), why };
            validator.check(request).map_err(rejected)?;
        }
        let event = Event::ValidateContainerAdjustment;
        for plugin in self.plugins.iter().filter(|plugin| plugin.events.have(event)) {
            let rejected =
                |why| Error::Rejected { validator: format!("the plugin \"{}\"", plugin.name), why };
            let answer = plugin.ask::<api::ValidateContainerAdjustmentResponse>(event, request).await?;
            let answer = answer.ok_or_else(|| rejected("it did not answer".to_owned()))?;
            if answer.reject {
                let why =
                    if answer.reason.is_empty() { "it says no reason".to_owned() } else { answer.reason };
                return Err(rejected(why));
            }
        }
        Ok(())
    }

    async fn update(&self, request: api::UpdateContainerRequest) -> Result<Answer, Error> {
        let api::UpdateContainerRequest { pod, container, linux_resources } = request;
        let id = container.as_ref().map(|container| container.id.as_str()).unwrap_or_default();
        let mut change = Change::new(id, linux_resources.unwrap_or_default());
        for plugin in &self.plugins {
            let question = api::UpdateContainerRequest {
                pod: pod.clone(),
                container: container.clone(),
                linux_resources: Some(change.seen.clone()),
            };
            if let Some(answer) = plugin.ask(Event::UpdateContainer, &question).await? {
                change.add(&plugin.name.to_string(), answer)?;
            }
        }
        let Change { seen, others: Others { updates, evictions, .. }, .. } = change;
        Ok(Answer { limits: seen, others: self.core.want(updates, evictions), ..Answer::nothing() })
    }

    /// What has happened can't be refused: a plugin that says no is heard by the log alone.
    pub(super) async fn tell(&mut self, news: News) {
        let event = news.event;
        if !self.plugins.iter().any(|plugin| plugin.events.have(event)) {
            return;
        }
        let patience = self.core.config.request_timeout;
        let Ok((pod, container)) = tokio::time::timeout(patience, news.about).await else {
            return tracing::warn!(
                event = method(event),
                "plugins are not told of something that can't be read"
            );
        };
        if event == Event::StopContainer {
            return self.container_stopped((pod, container)).await;
        }
        // The same two fields have the same numbers in all of these requests.
        let request = api::PostStartContainerRequest { pod: Some(pod.clone()), container: container.clone() };
        for plugin in &self.plugins {
            let told = plugin.tell(event, &request, || old(event, (pod.clone(), container.clone()))).await;
            heard(plugin, event, told);
        }
    }

    async fn container_stopped(&mut self, (pod, container): About) {
        let request = api::StopContainerRequest { pod: Some(pod), container };
        let mut others = Others::default();
        for plugin in &self.plugins {
            match plugin.ask::<api::StopContainerResponse>(Event::StopContainer, &request).await {
                Ok(Some(answer)) => {
                    heard(
                        plugin,
                        Event::StopContainer,
                        others.update(&plugin.name.to_string(), answer.update),
                    );
                }
                Ok(None) => {}
                Err(error) => heard(plugin, Event::StopContainer, Err(error)),
            }
        }
        // Nobody waits for them.
        drop(self.core.want(others.updates, others.evictions));
    }
}

fn heard(plugin: &Plugin, event: Event, told: Result<(), Error>) {
    if let Err(error) = told {
        tracing::warn!(plugin = %plugin.name, event = method(event), %error, "a plugin objects to what has happened");
    }
}

/// An event as plugins of before 0.12 hear of it.
fn old(event: Event, (pod, container): About) -> api::StateChangeEvent {
    api::StateChangeEvent { event: event as i32, pod: Some(pod), container }
}

fn instance(plugin: &Plugin) -> api::PluginInstance {
    api::PluginInstance { name: plugin.name.base.clone(), index: plugin.name.index.clone() }
}

impl Answer {
    fn nothing() -> Self {
        let (adjust, limits) = Default::default();
        Self { adjust, limits, others: None, window: None }
    }
}
