//! What spans are described by: fields of `tracing`'s spans under the names that OpenTelemetry has for them ("Semantic
//! conventions": Kubernetes, containers, RPC).

use super::calls;
use super::v1;
use tonic::Code;

/// Fields that say whom a span is about, so that its children are described by them, too.
const IDENTITY: [(&str, &str); 6] = [
    ("pod", "knarr.pod.id"),
    ("pod.name", "k8s.pod.name"),
    ("pod.namespace", "k8s.namespace.name"),
    ("pod.uid", "k8s.pod.uid"),
    ("container", "container.id"),
    ("container.name", "k8s.container.name"),
];

/// Other fields.
const OTHERS: [(&str, &str); 3] =
    [("image", "container.image.name"), ("plugin", "knarr.cni.plugin"), ("command", "knarr.cni.command")];

/// The attributes of a span.
#[derive(Debug, Clone, Default)]
pub(super) struct Described(Vec<(&'static str, String)>);

impl Described {
    /// Of a call, by its `service/method`.
    pub(super) fn call(name: &str) -> Self {
        let (service, method) = name.split_once('/').unwrap_or(("", name));
        Self(vec![
            ("rpc.system", "grpc".to_owned()),
            ("rpc.service", service.to_owned()),
            ("rpc.method", method.to_owned()),
        ])
    }

    /// Takes a field in, if it is one that tells something.
    pub(super) fn add(&mut self, field: &str, value: &str) {
        let known = IDENTITY.iter().chain(&OTHERS).find(|(name, _)| *name == field);
        let Some((_, key)) = known.filter(|_| !value.is_empty()) else { return };
        match self.0.iter_mut().find(|(there, _)| there == key) {
            Some((_, before)) => value.clone_into(before),
            None => self.0.push((key, value.to_owned())),
        }
    }

    /// Whom it is about.
    pub(super) fn identity(&self) -> Self {
        let is_identity = |key: &str| IDENTITY.iter().any(|(_, identity)| *identity == key);
        Self(self.0.iter().filter(|(key, _)| is_identity(key)).cloned().collect())
    }

    /// As they are sent.
    pub(super) fn into_attributes(self) -> Vec<v1::KeyValue> {
        self.0.into_iter().map(|(key, value)| text(key, value)).collect()
    }
}

/// One with a text.
pub(super) fn text(key: &str, value: String) -> v1::KeyValue {
    attribute(key, v1::any_value::Value::StringValue(value))
}

/// The code of a call: its number, and its word for people.
pub(super) fn code(code: Code) -> [v1::KeyValue; 2] {
    let number = v1::any_value::Value::IntValue(i64::from(code as i32));
    [
        attribute("rpc.grpc.status_code", number),
        text("rpc.response.status_code", calls::name(code).to_owned()),
    ]
}

fn attribute(key: &str, value: v1::any_value::Value) -> v1::KeyValue {
    v1::KeyValue { key: key.to_owned(), value: Some(v1::AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_names_of_the_conventions_and_only_identities_are_handed_on() {
        let mut described = Described::call("runtime.v1.RuntimeService/RunPodSandbox");
        described.add("pod.name", "web");
        described.add("pod", "");
        described.add("image", "busybox");
        described.add("microseconds", "7");
        described.add("pod.name", "web-2");
        let child = described.identity();
        assert_eq!(child.0, [("k8s.pod.name", "web-2".to_owned())]);
        let keys: Vec<_> = described.into_attributes().into_iter().map(|attribute| attribute.key).collect();
        let expected = ["rpc.system", "rpc.service", "rpc.method", "k8s.pod.name", "container.image.name"];
        assert_eq!(keys, expected);
    }
}
