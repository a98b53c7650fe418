//! The default validator: what plugins may not change, and which have to be there, by the runtime's own configuration.
//!
//! Not here: validators that are plugins (see `hub`).

use crate::api::{
    Field, FieldOwners, PodSandbox, ValidateContainerAdjustmentRequest as Request,
    security_profile::ProfileType,
};

/// The annotation of pods that names plugins which have to be there, as a YAML list.
const REQUIRED: &str = "required-plugins.noderesource.dev";

/// What is rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validator {
    /// Hooks.
    pub reject_oci_hooks: bool,
    /// A seccomp policy of a container that has the runtime's default.
    pub reject_runtime_default_seccomp: bool,
    /// One of a container that has none.
    pub reject_unconfined_seccomp: bool,
    /// One of a container that has a profile of the node's.
    pub reject_custom_seccomp: bool,
    /// Namespaces.
    pub reject_namespaces: bool,
    /// Sysctls.
    pub reject_sysctls: bool,
    /// Plugins without which no container is made, by name, or by index and name.
    pub required_plugins: Vec<String>,
    /// The annotation by which a pod can do without them.
    pub tolerate_missing_annotation: String,
}

impl Validator {
    /// Judges what plugins want.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, request: &Request) -> Result<(), String> {
        let none = FieldOwners::default();
        let id = request.container.as_ref().map(|container| container.id.as_str()).unwrap_or_default();
        let owners = request.owners.as_ref().and_then(|all| all.owners.get(id)).unwrap_or(&none);
        let restricted = [
            (self.reject_oci_hooks, Field::OciHooks, "OCI hooks"),
            (self.rejects_seccomp(request), Field::SeccompPolicy, "the seccomp policy"),
            (self.reject_namespaces, Field::Namespace, "namespaces"),
            (self.reject_sysctls, Field::Sysctl, "sysctls"),
        ];
        for (is_rejected, field, what) in restricted {
            let changers = changers(owners, field);
            if is_rejected && !changers.is_empty() {
                return Err(format!("{what} may not be changed, by {}", changers.join(", ")));
            }
        }
        self.required(request)
    }

    fn rejects_seccomp(&self, request: &Request) -> bool {
        let linux = request.container.as_ref().and_then(|container| container.linux.as_ref());
        match linux.and_then(|linux| linux.seccomp_profile.as_ref()).map(|profile| profile.profile_type()) {
            None | Some(ProfileType::Unconfined) => self.reject_unconfined_seccomp,
            Some(ProfileType::RuntimeDefault) => self.reject_runtime_default_seccomp,
            Some(ProfileType::Localhost) => self.reject_custom_seccomp,
        }
    }

    fn required(&self, request: &Request) -> Result<(), String> {
        let container =
            request.container.as_ref().map(|container| container.name.as_str()).unwrap_or_default();
        let annotation = |key: &str| request.pod.as_ref().and_then(|pod| effective(pod, key, container));
        let key = self.tolerate_missing_annotation.as_str();
        if let Some(said) = annotation(key).filter(|_| !key.is_empty()) {
            match said {
                "true" | "True" | "TRUE" | "t" | "T" | "1" => return Ok(()),
                "false" | "False" | "FALSE" | "f" | "F" | "0" => {}
                other => return Err(format!("the annotation {key:?} is {other:?}, and not true or false")),
            }
        }
        let mut required = self.required_plugins.clone();
        if let Some(text) = annotation(REQUIRED) {
            let named: Vec<String> = serde_saphyr::from_str(text)
                .map_err(|_| format!("the annotation {REQUIRED:?} is {text:?}, and not a list"))?;
            required.extend(named);
        }
        let is_there = |name: &String| {
            request.plugins.iter().any(|it| it.name == *name || format!("{}-{}", it.index, it.name) == *name)
        };
        match required.into_iter().filter(|name| !is_there(name)).collect::<Vec<_>>() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(format!("required plugins are not there: {}", missing.join(", "))),
        }
    }
}

/// Who changes a field, or any of its entries.
fn changers(owners: &FieldOwners, field: Field) -> Vec<String> {
    let number = field as i32;
    let entries = owners.compound.get(&number).into_iter().flat_map(|field| field.owners.values());
    let mut all: Vec<String> = owners.simple.get(&number).into_iter().chain(entries).cloned().collect();
    all.dedup();
    all
}

/// What an annotation says of a container: the container's own form of the key goes before the pod's.
fn effective<'a>(pod: &'a PodSandbox, key: &str, container: &str) -> Option<&'a str> {
    let keys = [format!("{key}/container.{container}"), format!("{key}/pod"), key.to_owned()];
    keys.iter().find_map(|key| pod.annotations.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{self, CompoundFieldOwners, PluginInstance};

    fn request(owners: FieldOwners, annotations: &[(&str, &str)]) -> Request {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Request {
            pod: Some(PodSandbox { annotations, ..PodSandbox::default() }),
            container: Some(api::Container {
                id: "c".into(),
                name: "main".into(),
                ..api::Container::default()
            }),
            owners: Some(api::OwningPlugins { owners: [("c".to_owned(), owners)].into() }),
            plugins: vec![PluginInstance { name: "here".into(), index: "10".into() }],
            ..Request::default()
        }
    }

    #[test]
    fn what_may_not_be_changed_is_rejected_with_who_wants_it() {
        let hooks = || FieldOwners {
            simple: [(Field::OciHooks as i32, "10-a,20-b".to_owned())].into(),
            ..FieldOwners::default()
        };
        let strict = Validator { reject_oci_hooks: true, reject_namespaces: true, ..Validator::default() };
        let why = strict.check(&request(hooks(), &[])).unwrap_err();
        assert_eq!(why, "OCI hooks may not be changed, by 10-a,20-b");
        Validator::default().check(&request(hooks(), &[])).unwrap();
        let namespaces = CompoundFieldOwners { owners: [("pid".to_owned(), "10-a".to_owned())].into() };
        let namespaces = FieldOwners {
            compound: [(Field::Namespace as i32, namespaces)].into(),
            ..FieldOwners::default()
        };
        assert!(strict.check(&request(namespaces, &[])).unwrap_err().contains("10-a"));
        strict.check(&request(FieldOwners::default(), &[])).unwrap();
    }

    #[test]
    fn seccomp_is_judged_by_what_the_container_has() {
        let owners = || FieldOwners {
            simple: [(Field::SeccompPolicy as i32, "a".to_owned())].into(),
            ..FieldOwners::default()
        };
        let with = |kind: Option<ProfileType>| {
            let mut request = request(owners(), &[]);
            let profile =
                kind.map(|kind| api::SecurityProfile { profile_type: kind as i32, ..Default::default() });
            let linux = api::LinuxContainer { seccomp_profile: profile, ..Default::default() };
            request.container.as_mut().unwrap().linux = Some(linux);
            request
        };
        let validator = Validator { reject_unconfined_seccomp: true, ..Validator::default() };
        assert!(
            validator.check(&with(None)).is_err()
                && validator.check(&with(Some(ProfileType::Unconfined))).is_err()
        );
        validator.check(&with(Some(ProfileType::RuntimeDefault))).unwrap();
        let validator = Validator { reject_runtime_default_seccomp: true, ..Validator::default() };
        assert!(validator.check(&with(Some(ProfileType::RuntimeDefault))).is_err());
        validator.check(&with(Some(ProfileType::Localhost))).unwrap();
    }

    #[test]
    fn required_plugins_have_to_be_there_unless_the_pod_can_do_without() {
        let validator = Validator {
            required_plugins: vec!["10-here".into(), "gone".into()],
            tolerate_missing_annotation: "tolerate".into(),
            ..Validator::default()
        };
        let check =
            |annotations: &[(&str, &str)]| validator.check(&request(FieldOwners::default(), annotations));
        assert_eq!(check(&[]).unwrap_err(), "required plugins are not there: gone");
        check(&[("tolerate", "true")]).unwrap();
        assert!(
            check(&[("tolerate", "true"), ("tolerate/container.main", "false")]).is_err(),
            "its own form wins"
        );
        assert!(check(&[("tolerate", "maybe")]).is_err());
        let by_pod =
            |text: &str| Validator::default().check(&request(FieldOwners::default(), &[(REQUIRED, text)]));
        by_pod("[ here ]").unwrap();
        assert_eq!(by_pod("- here\n- other").unwrap_err(), "required plugins are not there: other");
        assert!(by_pod("{").is_err());
    }
}
