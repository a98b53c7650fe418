//! The process of a container: command, environment, directory, user, rights.

use std::path::{Path, PathBuf};

use runtime::identity::{GroupName, ImageGroups, UserName, UserRequest};
use runtime::spec::oci;

use super::SpecInput;
use super::capabilities::{self, Choice};
use crate::container::config::{ContainerConfig, RunAs, SupplementalGroupsPolicy};
use crate::error::Error;
use crate::handler::Ulimit;
use crate::rootfs::ImageConfig;

/// Where commands are looked for when neither image nor request says.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whom to run as: what the request says, else what the image says.
pub(crate) fn user_request(container: &ContainerConfig, image: &ImageConfig) -> UserRequest {
    let security = &container.security;
    let chosen = match &security.run_as {
        RunAs::Image => UserRequest::parse(&image.user),
        RunAs::Uid { uid, gid } => {
            UserRequest { user: UserName::Id(*uid), group: gid.map(GroupName::Id), ..UserRequest::default() }
        }
        RunAs::Username { name, gid } => UserRequest {
            user: UserName::Text(name.clone()),
            group: gid.map(GroupName::Id),
            ..UserRequest::default()
        },
    };
    UserRequest {
        additional_gids: security.supplemental_groups.clone(),
        image_groups: match security.supplemental_groups_policy {
            SupplementalGroupsPolicy::Merge => ImageGroups::Merge,
            SupplementalGroupsPolicy::Strict => ImageGroups::Strict,
        },
        ..chosen
    }
}

pub(crate) fn process(input: &SpecInput<'_>) -> Result<oci::Process, Error> {
    let security = &input.container.security;
    let mut process = oci::Process::default();
    process
        .set_terminal(Some(input.container.tty))
        .set_args(Some(args(input.container, input.image)?))
        .set_env(Some(environment(input)?))
        .set_cwd(working_directory(input.container, input.image)?)
        .set_user(user(input))
        .set_capabilities(Some(capabilities::sets(security, &Choice::of(input.handler))?))
        .set_rlimits(input.handler.rlimits())
        .set_apparmor_profile(input.apparmor.map(str::to_owned))
        .set_no_new_privileges(Some(security.no_new_privileges))
        // Said even when it is 0: the supervisor's own would be inherited, and that spares it.
        .set_oom_score_adj(Some(input.container.resources.oom_score()));
    Ok(process)
}

/// The limit with this name (setrlimit(2), without `RLIMIT_` and in lower case); `None` when there is none.
pub(crate) fn rlimit(name: &str, limit: Ulimit) -> Option<oci::PosixRlimit> {
    use oci::PosixRlimitType as Kind;
    let kind = match name {
        "as" => Kind::RlimitAs,
        "core" => Kind::RlimitCore,
        "cpu" => Kind::RlimitCpu,
        "data" => Kind::RlimitData,
        "fsize" => Kind::RlimitFsize,
        "locks" => Kind::RlimitLocks,
        "memlock" => Kind::RlimitMemlock,
        "msgqueue" => Kind::RlimitMsgqueue,
        "nice" => Kind::RlimitNice,
        "nofile" => Kind::RlimitNofile,
        "nproc" => Kind::RlimitNproc,
        "rss" => Kind::RlimitRss,
        "rtprio" => Kind::RlimitRtprio,
        "rttime" => Kind::RlimitRttime,
        "sigpending" => Kind::RlimitSigpending,
        "stack" => Kind::RlimitStack,
        _ => return None,
    };
    oci::PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build().ok()
}

fn user(input: &SpecInput<'_>) -> oci::User {
    let mut user = oci::User::default();
    user.set_uid(input.identity.uid)
        .set_gid(input.identity.gid)
        .set_additional_gids(Some(input.identity.additional_gids.clone()))
        .set_username(input.identity.username.clone());
    user
}

/// Kubernetes' rule: a command replaces entry point and arguments of the image, arguments alone replace its arguments.
pub(crate) fn args(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let (command, args) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    match all.first() {
        None => Err(Error::refused("command", "neither the request nor the image names a command")),
        Some(first) if first.is_empty() => Err(Error::refused("command", "the name of the command is empty")),
        Some(_) => Ok(all),
    }
}

fn working_directory(container: &ContainerConfig, image: &ImageConfig) -> Result<PathBuf, Error> {
    let asked = Path::new(&container.working_dir);
    match (container.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => Ok("/".into()),
        // Image builders write relative directories now and then, and mean them from the root.
        ("", image) => Ok(Path::new("/").join(image)),
        (given, _) if !asked.is_absolute() => {
            Err(Error::refused("working_dir", format!("\"{given}\" is not an absolute path")))
        }
        _ => Ok(asked.to_owned()),
    }
}

/// Later ones win: defaults, the image's, the request's, those of CDI devices.
fn environment(input: &SpecInput<'_>) -> Result<Vec<String>, Error> {
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", input.hostname)];
    if input.container.tty {
        all.push("TERM=xterm".to_owned());
    }
    // A home with a line break in it could forge lines of files that programs write from it (CVE-2022-4318).
    let home = input.identity.home.as_deref().filter(|home| !home.contains(['\n', '\r', '\0']));
    all.push(format!("HOME={}", home.unwrap_or("/")));
    all.extend(input.image.env.iter().filter(|entry| entry.contains('=')).cloned());
    for (at, (key, value)) in input.container.envs.iter().enumerate() {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::refused(
                format!("envs[{at}]"),
                format!("\"{key}\" is not the name of a variable, or its value has a zero byte"),
            ));
        }
        all.push(format!("{key}={value}"));
    }
    all.extend(input.cdi.env.iter().cloned());
    Ok(last_of_each(all))
}

fn last_of_each(entries: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = entry.split('=').next().unwrap_or_default();
        let same = |known: &String| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('='));
        match kept.iter().position(same) {
            Some(at) => kept[at] = entry,
            None => kept.push(entry),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn commands_follow_the_rule_of_kubernetes() {
        let image =
            ImageConfig { entrypoint: words("/entry -e"), cmd: words("-c"), ..ImageConfig::default() };
        for (command, args_given, expected) in [
            ("", "", "/entry -e -c"),
            ("", "-a", "/entry -e -a"),
            ("/own", "", "/own"),
            ("/own", "-a -b", "/own -a -b"),
        ] {
            let container = ContainerConfig {
                command: words(command),
                args: words(args_given),
                ..ContainerConfig::default()
            };
            assert_eq!(args(&container, &image).expect("a command"), words(expected));
        }
        let refused = args(&ContainerConfig::default(), &ImageConfig::default());
        assert!(matches!(refused, Err(Error::Refused { field, .. }) if field == "command"));
    }

    #[test]
    fn the_last_variable_of_a_name_wins_in_the_place_of_the_first() {
        let entries = ["PATH=/a", "A=1", "PATHX=2", "PATH=/b=c"].map(str::to_owned).to_vec();
        assert_eq!(last_of_each(entries), ["PATH=/b=c", "A=1", "PATHX=2"]);
    }

    #[test]
    fn a_relative_directory_is_refused_of_a_request_and_understood_of_an_image() {
        let image = ImageConfig { working_dir: "srv".to_owned(), ..ImageConfig::default() };
        let directory = working_directory(&ContainerConfig::default(), &image).expect("a directory");
        assert_eq!(directory, Path::new("/srv"));
        let asked = ContainerConfig { working_dir: "srv".to_owned(), ..ContainerConfig::default() };
        assert!(working_directory(&asked, &image).is_err());
    }
}
