//! How long stages take, and which of them are under way: what an operator looks at when something is stuck.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tracing::Subscriber;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::calls::{Times, TimesBy};
use super::fields::Texts;
use super::plugins::{Call, Plugins};

/// The name of the spans that are stages.
pub(super) const SPAN: &str = "stage";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    stage: Arc<str>,
}

/// The stages. As a layer of `tracing` it watches spans. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub(crate) struct Stages(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    durations: TimesBy<Of>,
    failures: Family<Of, Counter>,
    plugins: Plugins,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Every stage that there ever was, so that one that isn't under way is shown as such.
    known: BTreeMap<Arc<str>, usize>,
    begun: BTreeMap<u64, (Arc<str>, Instant)>,
}

/// A stage, kept with its span.
#[derive(Debug)]
struct Open {
    of: Of,
    plugin: Option<Call>,
    begun: Instant,
    failed: bool,
}

/// A stage that is under way somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnderWayStage {
    /// Which one.
    pub(crate) stage: Arc<str>,
    /// Since when.
    pub(crate) age: Duration,
}

impl Default for Stages {
    fn default() -> Self {
        Self(Arc::new(Watched {
            durations: Family::new_with_constructor(Times),
            failures: Family::default(),
            plugins: Plugins::default(),
            under_way: Mutex::default(),
        }))
    }
}

impl Stages {
    /// The stages that are under way, the oldest first.
    pub(crate) fn under_way(&self) -> Vec<UnderWayStage> {
        let now = Instant::now();
        let age = |begun: Instant| now.saturating_duration_since(begun);
        let begun = self.lock().begun.clone();
        let shown = begun.into_values().map(|(stage, begun)| UnderWayStage { stage, age: age(begun) });
        let mut stages: Vec<_> = shown.collect();
        stages.sort_by_key(|stage| std::cmp::Reverse(stage.age));
        stages
    }

    /// Of every stage that there ever was, how many are under way and since when the oldest is: as of one moment.
    fn counts(&self) -> BTreeMap<Arc<str>, (usize, Option<Instant>)> {
        let under_way = self.lock();
        let known = under_way.known.iter().map(|(stage, count)| (stage.clone(), (*count, None)));
        let mut counts: BTreeMap<_, (usize, Option<Instant>)> = known.collect();
        for (stage, begun) in under_way.begun.values() {
            if let Some((_, oldest)) = counts.get_mut(stage) {
                *oldest = Some(oldest.map_or(*begun, |oldest: Instant| oldest.min(*begun)));
            }
        }
        counts
    }

    /// Has the figures shown.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let watched = &self.0;
        let durations = watched.durations.clone();
        registry.register_with_unit(
            "stage_duration",
            "Time that stages of calls take",
            Unit::Seconds,
            durations,
        );
        let failures = watched.failures.clone();
        registry.register("stage_failures", "Stages that have failed", failures);
        watched.plugins.register(registry);
        registry.register_collector(Box::new(Now(self.clone())));
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, id: &Id, attributes: &Attributes<'_>) -> Open {
        let (mut name, mut plugin, mut what) = (Arc::<str>::from(""), String::new(), String::new());
        attributes.record(&mut Texts(|field, value: &str| match field {
            "stage" => name = value.into(),
            "plugin" => value.clone_into(&mut plugin),
            "command" | "method" => value.clone_into(&mut what),
            _ => {}
        }));
        let begun = Instant::now();
        let mut under_way = self.lock();
        let stage = match under_way.known.get_key_value(&name) {
            Some((known, _)) => known.clone(),
            None => name,
        };
        *under_way.known.entry(stage.clone()).or_default() += 1;
        under_way.begun.insert(id.into_u64(), (stage.clone(), begun));
        let plugin = Call::of(&stage, plugin, what);
        Open { of: Of { stage }, plugin, begun, failed: false }
    }

    fn end(&self, id: &Id, open: &Open) {
        let after = open.begun.elapsed().as_secs_f64();
        let mut under_way = self.lock();
        under_way.begun.remove(&id.into_u64());
        if let Some(count) = under_way.known.get_mut(&open.of.stage) {
            *count = count.saturating_sub(1);
        }
        drop(under_way);
        self.0.durations.get_or_create(&open.of).observe(after);
        if open.failed {
            self.0.failures.get_or_create(&open.of).inc();
        }
        if let Some(call) = &open.plugin {
            self.0.plugins.ended(call, after);
            if open.failed {
                self.0.plugins.failed(call);
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Stages {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() == SPAN
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().insert(self.begin(id, attributes));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values
                .record(&mut Texts(|field, value: &str| open.failed |= field == "failed" && value == "true"));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        if let Some(open) = open {
            self.end(&id, &open);
        }
    }
}

/// What is under way, looked at when somebody asks.
#[derive(Debug)]
struct Now(Stages);

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let counts = self.0.counts();
        let age =
            |begun: Option<Instant>| begun.map(|begun| begun.elapsed().as_secs_f64()).unwrap_or_default();
        let help = "Stages that are under way";
        let mut family = encoder.encode_descriptor("stages_under_way", help, None, MetricType::Gauge)?;
        for (stage, (count, _)) in &counts {
            ConstGauge::new(*count as f64).encode(family.encode_family(&[("stage", &**stage)])?)?;
        }
        let help = "For how long the oldest stage of its kind has been under way; 0 for none";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("stage_oldest", help, unit, MetricType::Gauge)?;
        for (stage, (_, oldest)) in &counts {
            ConstGauge::new(age(*oldest)).encode(family.encode_family(&[("stage", &**stage)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn text(stages: &Stages) -> String {
        let mut registry = Registry::default();
        stages.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_stage_is_under_way_until_its_span_closes() {
        let stages = Stages::default();
        let subscriber = tracing_subscriber::registry().with(stages.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let other = tracing::error_span!("call", stage = "no stage");
        let span =
            tracing::error_span!(parent: &other, "stage", stage = "network", failed = tracing::field::Empty);
        let held = span.clone();
        drop(span);
        let under_way = stages.under_way();
        assert_eq!(under_way.iter().map(|stage| &*stage.stage).collect::<Vec<_>>(), ["network"]);
        assert!(text(&stages).contains("stages_under_way{stage=\"network\"} 1"), "{}", text(&stages));
        held.record("failed", true);
        drop(held);
        assert!(stages.under_way().is_empty());
        let text = text(&stages);
        for line in [
            "stages_under_way{stage=\"network\"} 0",
            "stage_oldest_seconds{stage=\"network\"} 0",
            "stage_failures_total{stage=\"network\"} 1",
            "stage_duration_seconds_count{stage=\"network\"} 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("no stage"), "{text}");
    }

    #[test]
    fn what_is_said_of_a_stage_is_of_one_moment() {
        let stages = Stages::default();
        let subscriber = tracing_subscriber::registry().with(stages.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let spans = [(); 2].map(|()| tracing::error_span!("stage", stage = "network"));
        let (count, oldest) = stages.counts()["network"];
        assert_eq!(count, 2);
        assert!(stages.under_way()[1].age < oldest.unwrap().elapsed(), "the older of the two");
        drop(spans);
        assert_eq!(stages.counts()["network"], (0, None));
    }

    #[test]
    fn plugins_are_told_apart() {
        let stages = Stages::default();
        let subscriber = tracing_subscriber::registry().with(stages.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        drop(tracing::error_span!("stage", stage = "cni_plugin", plugin = "bridge", command = "ADD"));
        let text = text(&stages);
        let line = "cni_plugin_duration_seconds_count{plugin=\"bridge\",command=\"ADD\"} 1";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn plugins_of_the_node_have_figures_by_method() {
        let stages = Stages::default();
        let subscriber = tracing_subscriber::registry().with(stages.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let call = || {
            tracing::error_span!(
                "stage",
                stage = "nri_plugin",
                plugin = "10-a",
                method = "StopContainer",
                failed = tracing::field::Empty
            )
        };
        drop(call());
        call().record("failed", true);
        let text = text(&stages);
        let labels = "{plugin=\"10-a\",method=\"StopContainer\"}";
        for line in [
            format!("nri_plugin_duration_seconds_count{labels} 2"),
            format!("nri_plugin_failures_total{labels} 1"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
