//! Finding the command in the container and executing it.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::execve;
use rustix::fs::{AtFlags, CWD, statat};
use rustix::io::Errno;

use crate::plan::{Hook, ProcessPlan};
use crate::{FailedStep, Failure, FailureKind};

/// Where a command without a slash is looked for when the environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with its arguments and environment, ready for execve(2).
pub(crate) struct Command {
    name: String,
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    pub(super) fn find(plan: &ProcessPlan, own: Option<(u64, u64)>) -> Result<Self, Failure> {
        let name = plan.args.first().cloned().unwrap_or_default();
        let found = Self {
            candidates: texts(&candidates(plan), &name)?,
            args: texts(&plan.args, &name)?,
            env: texts(&plan.env, &name)?,
            name,
        };
        found.check(own)?;
        Ok(found)
    }

    /// The program of a hook.
    pub(crate) fn of_hook(hook: &Hook) -> Result<Self, Failure> {
        let name = hook.path.to_string_lossy().into_owned();
        let path = CString::new(hook.path.as_os_str().as_bytes())
            .map_err(|_| failure(FailureKind::NotFound, Errno::INVAL, &name))?;
        let args = if hook.args.is_empty() { vec![path.clone()] } else { texts(&hook.args, &name)? };
        Ok(Self { args, env: texts(&hook.env, &name)?, candidates: vec![path], name })
    }

    /// # Errors
    /// It is this very program.
    pub(super) fn check(&self, own: Option<(u64, u64)>) -> Result<(), Failure> {
        if self.candidates.iter().any(|candidate| is_own_executable(candidate, own)) {
            return Err(super::process::outside(FailedStep::Exec, self.name.as_str()));
        }
        Ok(())
    }

    /// Executes the first candidate that can be; returns why none could.
    pub(crate) fn execute(&self) -> Failure {
        let mut answer = Errno::NOENT;
        for candidate in &self.candidates {
            let Err(errno) = execve(candidate, &self.args, &self.env);
            match crate::handshake::to_rustix(errno) {
                Errno::NOENT if exists(candidate) => {
                    return failure(FailureKind::NoInterpreter, Errno::NOENT, &self.name);
                }
                Errno::NOENT | Errno::NOTDIR => {}
                // Another directory may have one that can be executed.
                Errno::ACCESS => answer = Errno::ACCESS,
                other => return Failure::system(FailedStep::Exec, other, self.name.as_str()),
            }
        }
        Failure::system(FailedStep::Exec, answer, self.name.as_str())
    }
}

fn texts(texts: &[String], command: &str) -> Result<Vec<CString>, Failure> {
    let texts: Result<Vec<_>, _> = texts.iter().map(|text| CString::new(text.as_str())).collect();
    texts.map_err(|_| failure(FailureKind::NotFound, Errno::INVAL, command))
}

fn failure(kind: FailureKind, errno: Errno, command: &str) -> Failure {
    Failure { kind, step: FailedStep::Exec, errno: Some(errno.raw_os_error()), subject: command.to_owned() }
}

/// The paths at which the command may be, in order.
fn candidates(plan: &ProcessPlan) -> Vec<String> {
    let Some(command) = plan.args.first() else { return Vec::new() };
    if command.contains('/') {
        return vec![command.clone()];
    }
    let path = plan.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| format!("{}/{command}", directory.trim_end_matches('/')))
        .collect()
}

fn exists(path: &CStr) -> bool {
    statat(CWD, path, AtFlags::empty()).is_ok()
}

/// Whether a path leads to this very program, as /proc/self/exe does until something else is executed: a
/// container that ran it would hold the host's file (CVE-2019-5736).
fn is_own_executable(path: &CStr, own: Option<(u64, u64)>) -> bool {
    match (statat(CWD, path, AtFlags::empty()), own) {
        (Ok(stat), Some(own)) => (stat.st_dev, stat.st_ino) == own,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(command: &str, env: &[&str]) -> ProcessPlan {
        let text = serde_json::json!({
            "args": [command], "env": env, "cwd": "/", "uid": 0, "gid": 0, "additional_gids": [], "umask": 18,
            "capabilities": {"bounding": 0, "effective": 0, "permitted": 0, "ambient": 0},
            "no_new_privileges": false, "rlimits": [], "oom_score_adj": null, "terminal": null, "seccomp": null,
            "apparmor": null, "selinux": null,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_command_is_looked_for_where_the_environment_says() {
        assert_eq!(candidates(&plan("sh", &["PATH=/a:/b/::", "PATH=/c"])), ["/a/sh", "/b/sh"]);
        assert_eq!(candidates(&plan("./sh", &["PATH=/a"])), ["./sh"]);
        assert!(candidates(&plan("sh", &[])).contains(&"/bin/sh".to_owned()));
    }
}
