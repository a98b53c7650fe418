//! Refusals of the plan in the words of the request: its fields are those of the specification, which has more than was asked for, in another
//! order.
//!
//! Not here: limits, whose names are in `resources`.

use std::path::Path;

use runtime::plan::Refusal;
use runtime::spec::oci;

use super::mounts::clean;
use crate::cdi::Edits;
use crate::container::config::ContainerConfig;
use crate::error::Error;

/// What a refused specification was made from.
pub(crate) struct Asked<'a> {
    pub(crate) container: &'a ContainerConfig,
    pub(crate) cdi: &'a Edits,
    pub(crate) spec: &'a oci::Spec,
}

/// The field of requests for devices: which of its names brought something is not kept.
const CDI: &str = "CDI_devices";

/// Where what an image says is asked for.
const IMAGE: &str = "image.image";

/// The specification's name of a field, and CRI's. A list has the numbers of the request's.
const FIELDS: [(&str, &str); 7] = [
    ("linux.maskedPaths", "linux.security_context.masked_paths"),
    ("linux.readonlyPaths", "linux.security_context.readonly_paths"),
    ("process.cwd", "working_dir"),
    // The request's variables were looked at before.
    ("process.env", IMAGE),
    ("process.oomScoreAdj", "linux.resources.oom_score_adj"),
    ("process.terminal", "tty"),
    ("hooks", CDI),
];

/// The same of a mount, below `mounts[]`.
const OF_MOUNTS: [(&str, &str); 3] =
    [("destination", "container_path"), ("source", "host_path"), ("options", "mount_options")];

/// The error of a refusal.
pub(crate) fn refused(refusal: Refusal, asked: &Asked<'_>) -> Error {
    let field = field(&refusal.field, asked);
    // Of what isn't the request's own words it is good to know which part it is.
    let is_named = field == CDI || field == IMAGE;
    let why = if is_named { format!("{}: {}", refusal.field, refusal.why) } else { refusal.why };
    Error::refused(field, why)
}

fn field(name: &str, asked: &Asked<'_>) -> String {
    let (list, number, rest) = parts(name);
    match (list, number) {
        ("mounts", Some(at)) => mount(at, rest, asked).unwrap_or_else(|| name.to_owned()),
        ("process.args", Some(at)) => argument(at, asked),
        _ => {
            let of = |known: &str| list == known || known == "hooks" && list.starts_with("hooks.");
            match (FIELDS.iter().find(|(theirs, _)| of(theirs)), number) {
                (Some((_, ours @ (CDI | IMAGE))), _) | (Some((_, ours)), None) => (*ours).to_owned(),
                (Some((_, ours)), Some(at)) => format!("{ours}[{at}]"),
                (None, _) => name.to_owned(),
            }
        }
    }
}

/// `list[3].rest`, or a name without a number.
fn parts(name: &str) -> (&str, Option<usize>, &str) {
    let Some((list, rest)) = name.split_once('[') else { return (name, None, "") };
    let (number, rest) = rest.split_once(']').unwrap_or((rest, ""));
    (list, number.parse().ok(), rest.trim_start_matches('.'))
}

/// Who asks for what is mounted there: the last of those who may.
fn mount(at: usize, part: &str, asked: &Asked<'_>) -> Option<String> {
    let target = clean(asked.spec.mounts().as_deref()?.get(at)?.destination());
    let is_there = |path: &Path| clean(path) == target;
    if asked.cdi.mounts.iter().any(|mount| is_there(mount.destination())) {
        return Some(CDI.to_owned());
    }
    let Some(number) = asked.container.mounts.iter().position(|mount| is_there(&mount.container_path)) else {
        // A volume of the image's: none of ours is refused.
        return Some(IMAGE.to_owned());
    };
    let known = OF_MOUNTS.iter().find(|(theirs, _)| *theirs == part);
    Some(format!("mounts[{number}].{}", known.map_or(part, |(_, ours)| ours)))
}

/// The request's arguments are the last ones, its command the first; what else there is comes from the image.
fn argument(at: usize, asked: &Asked<'_>) -> String {
    let ContainerConfig { command, args, .. } = asked.container;
    let all = asked.spec.process().as_ref().and_then(|process| process.args().as_ref()).map_or(0, Vec::len);
    match at.checked_sub(all.saturating_sub(args.len())) {
        Some(number) => format!("args[{number}]"),
        None if at < command.len() => format!("command[{at}]"),
        None => IMAGE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::{Mount, MountAccess, MountSource, Propagation};

    fn at(path: &str) -> oci::Mount {
        let mut mount = oci::Mount::default();
        mount.set_destination(path.into());
        mount
    }

    fn volume(path: &str) -> Mount {
        Mount {
            container_path: path.into(),
            source: MountSource::Host("/srv".into()),
            access: MountAccess::ReadWrite,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapping: None,
            options: vec![],
        }
    }

    #[test]
    fn a_refusal_names_the_field_of_the_request() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let container = ContainerConfig {
            command: words("a b"),
            args: words("c"),
            mounts: vec![volume("/data"), volume("/proc/../x/")],
            ..ContainerConfig::default()
        };
        let cdi = Edits { mounts: vec![at("/of/cdi")], ..Edits::default() };
        let mut process = oci::Process::default();
        process.set_args(Some(words("a b c")));
        let mut spec = oci::Spec::default();
        let mounts = ["/x", "/proc", "/data", "/of/cdi", "/of/image"].map(at).to_vec();
        spec.set_mounts(Some(mounts)).set_process(Some(process));
        let asked = Asked { container: &container, cdi: &cdi, spec: &spec };
        for (theirs, ours) in [
            ("mounts[0].destination", "mounts[1].container_path"),
            ("mounts[2].options", "mounts[0].mount_options"),
            ("mounts[2].source", "mounts[0].host_path"),
            ("mounts[2].uidMappings", "mounts[0].uidMappings"),
            ("mounts[3].options", "CDI_devices"),
            ("mounts[4].destination", "image.image"),
            ("linux.maskedPaths[2]", "linux.security_context.masked_paths[2]"),
            ("linux.readonlyPaths[0]", "linux.security_context.readonly_paths[0]"),
            ("process.args[1]", "command[1]"),
            ("process.args[2]", "args[0]"),
            ("process.env[3]", "image.image"),
            ("process.cwd", "working_dir"),
            ("hooks", "CDI_devices"),
            ("hooks.createRuntime[0].path", "CDI_devices"),
            ("linux.seccomp", "linux.seccomp"),
        ] {
            assert_eq!(field(theirs, &asked), ours, "{theirs}");
        }
        let of_image = ContainerConfig { args: words("c"), ..ContainerConfig::default() };
        let asked = Asked { container: &of_image, ..asked };
        assert_eq!(field("process.args[1]", &asked), "image.image");
        assert_eq!(field("process.args[2]", &asked), "args[0]");
    }
}
