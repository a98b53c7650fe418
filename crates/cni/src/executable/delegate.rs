//! Other plugins' executables, which ours ask for addresses (SPEC.md section 4).

use std::env;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::thread;

use serde_json::Value;

use crate::builtin::Ipam;
use crate::command::Command;
use crate::error::Error;
use crate::plugin::{Finished, STDOUT_LIMIT, environment, find_in, garbage, judge};
use crate::request::Request;

/// Finds and runs them. Who runs us bounds their time along with ours.
#[derive(Debug)]
pub(super) struct Delegates {
    path: String,
    owner: Option<String>,
}

impl Delegates {
    /// Those below the directories of `CNI_PATH`; for a daemon of ours, if one has called: see [`crate::orphans::VARIABLE`].
    pub(super) fn new(path: String, owner: Option<String>) -> Delegates {
        Delegates { path, owner }
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, Error> {
        let dirs: Vec<PathBuf> = env::split_paths(&self.path).collect();
        find_in(&dirs, plugin)
    }

    fn talk(&self, binary: &PathBuf, request: &Request) -> io::Result<Finished> {
        let mut child = Process::new(binary)
            .env_clear()
            .envs(environment(request, self.path.clone().into(), self.owner.as_deref()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let config = serde_json::to_vec(&request.config)?;
        let (stdin, output) = (child.stdin.take(), child.stdout.take());
        let mut stdout = Vec::new();
        thread::scope(|scope| {
            // A plugin needn't read it all; whether it did its work is told by its answer.
            scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(&config)));
            // What is more than that is no result; the plugin is stopped by its pipe.
            output.map_or(Ok(0), |output| output.take(STDOUT_LIMIT as u64).read_to_end(&mut stdout))
        })?;
        Ok(Finished { status: child.wait()?, stdout, stderr: Vec::new() })
    }
}

impl Ipam for Delegates {
    fn call(&self, request: &Request) -> Result<Option<Value>, Error> {
        let binary = self.find(&request.plugin)?;
        let (plugin, command) = (request.plugin.clone(), request.command);
        let finished = self.talk(&binary, request);
        let stdout =
            judge(request, finished.map_err(|source| Error::PluginRun { plugin, command, source })?)?;
        if request.command != Command::Add {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&stdout);
        parsed.map(Some).map_err(|source| garbage(request, &stdout, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn whose_they_are_is_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join("told");
        let script = format!("#!/bin/sh\ncat >/dev/null\necho \"$KNARR_STATE\" >> {}\n", told.display());
        fs::write(dir.path().join("ipam"), script).unwrap();
        fs::set_permissions(dir.path().join("ipam"), fs::Permissions::from_mode(0o755)).unwrap();
        let request = Request::about_network("ipam", Command::Gc, serde_json::Map::new());
        for owner in [Some("1:22".to_owned()), None] {
            Delegates::new(dir.path().to_str().unwrap().to_owned(), owner).call(&request).unwrap();
        }
        assert_eq!(fs::read_to_string(told).unwrap(), "1:22\n\n");
    }
}
