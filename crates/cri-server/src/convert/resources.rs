//! LinuxContainerResources, both ways. Zero on the wire means that nothing is said.

use std::collections::BTreeMap;

use proto::runtime::v1 as cri;
use sandbox::{Error, Resources};

use super::{sorted, unsorted};

/// Where a container's limits are in its configuration.
pub(crate) const CONTAINER: &str = "linux.resources";

/// Where they are in an update of them.
pub(crate) const UPDATE: &str = "linux";

/// A refusal of an update in the terms of that message: inside, limits are known by the path that they have in the configuration.
pub(crate) fn in_update(error: Error) -> Error {
    match error {
        Error::Refused { field, why } => {
            let short = field.strip_prefix(CONTAINER).map(|rest| format!("{UPDATE}{rest}"));
            Error::Refused { field: short.unwrap_or(field), why }
        }
        other => other,
    }
}

/// Limits as they were asked for in the field at `path`.
///
/// # Errors
/// [`Error::Refused`] for a number that can't be one.
pub(crate) fn read(resources: cri::LinuxContainerResources, path: &str) -> Result<Resources, Error> {
    let refused = |field: &str, why: String| Error::refused(format!("{path}.{field}"), why);
    let unsigned = |field: &str, value: i64| {
        u64::try_from(value).map_err(|_| refused(field, format!("{value} is negative")))
    };
    let score = resources.oom_score_adj;
    let oom_score_adj = i32::try_from(score).ok().filter(|score| (-1000..=1000).contains(score));
    let bad_score = || refused("oom_score_adj", format!("{score} is not in -1000 to 1000"));
    let mut hugepage_limits = BTreeMap::new();
    for (at, limit) in resources.hugepage_limits.into_iter().enumerate() {
        if hugepage_limits.contains_key(&limit.page_size) {
            let why = format!("\"{}\" has a limit already", limit.page_size);
            return Err(refused(&format!("hugepage_limits[{at}].page_size"), why));
        }
        hugepage_limits.insert(limit.page_size, limit.limit);
    }
    Ok(Resources {
        cpu_period: said(unsigned("cpu_period", resources.cpu_period)?),
        cpu_quota: said(resources.cpu_quota),
        cpu_shares: said(unsigned("cpu_shares", resources.cpu_shares)?),
        memory_limit: said(resources.memory_limit_in_bytes),
        memory_swap_limit: said(resources.memory_swap_limit_in_bytes),
        oom_score_adj: Some(oom_score_adj.ok_or_else(bad_score)?),
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        hugepage_limits,
        unified: sorted(resources.unified),
        further: sandbox::Further::default(),
    })
}

/// Limits as an answer shows them.
pub(crate) fn shown(resources: &Resources) -> cri::LinuxContainerResources {
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    let hugepage = |(page_size, limit): (&String, &u64)| cri::HugepageLimit {
        page_size: page_size.clone(),
        limit: *limit,
    };
    cri::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit.unwrap_or(0),
        memory_swap_limit_in_bytes: resources.memory_swap_limit.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.hugepage_limits.iter().map(hugepage).collect(),
        unified: unsorted(&resources.unified),
    }
}

fn said<T: Default + PartialEq>(value: T) -> Option<T> {
    Some(value).filter(|value| *value != T::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_has_one_limit() {
        let limit = |page_size: &str| cri::HugepageLimit { page_size: page_size.into(), limit: 4 };
        let asked = |limits: [&str; 2]| {
            let hugepage_limits = limits.map(limit).to_vec();
            read(cri::LinuxContainerResources { hugepage_limits, ..Default::default() }, CONTAINER)
        };
        assert!(asked(["2MB", "1GB"]).is_ok());
        let refused = asked(["2MB", "2MB"]).unwrap_err().to_string();
        assert!(refused.starts_with("linux.resources.hugepage_limits[1].page_size: "), "{refused}");
    }

    #[test]
    fn what_is_read_is_shown_again() {
        let asked = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            memory_swap_limit_in_bytes: 1 << 21,
            oom_score_adj: 997,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 }],
            unified: [("memory.high".to_owned(), "1000000".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(shown(&read(asked.clone(), CONTAINER).unwrap()), asked);
    }

    #[test]
    fn impossible_numbers_are_refused_with_their_field() {
        let negative = cri::LinuxContainerResources { cpu_shares: -1, ..Default::default() };
        let error = read(negative.clone(), CONTAINER).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.cpu_shares"), "{error}");
        let beyond = cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() };
        assert!(read(beyond, CONTAINER).unwrap_err().to_string().contains("oom_score_adj"));
        let error = read(negative, "linux.overhead").unwrap_err().to_string();
        assert!(error.starts_with("linux.overhead.cpu_shares"), "{error}");
        let inside = Error::refused("linux.resources.cpu_period", "is bad");
        assert_eq!(in_update(inside).to_string(), "linux.cpu_period: is bad");
    }
}
