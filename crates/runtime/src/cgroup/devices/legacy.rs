//! Device rules in the words of the version 1 controller (Documentation/admin-guide/cgroup-v1/devices.rst).
//!
//! The controller keeps a default and exceptions from it. It takes an exception back only as it was given; a part of
//! one it passes over in silence, so that a list that needs this is refused instead.

use std::path::Path;

use super::{EVERY_ACCESS, Kind, MAKE, READ, Rule, Verdict, WRITE};
use crate::Error;
use crate::cgroup::files::Setting;
use crate::plan::Refusal;

pub(super) fn apply(directory: &Path, rules: &[Rule]) -> Result<(), Error> {
    check(rules)?;
    let open = |name| Setting::open(directory.join(name));
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        let file = if rule.verdict == Verdict::Allow { &allow } else { &deny };
        lines(rule).iter().try_for_each(|line| file.write(line))?;
    }
    Ok(())
}

/// Whether the controller, which changes a list step by step, comes to what the list means.
fn check(rules: &[Rule]) -> Result<(), Refusal> {
    let mut default = None;
    let mut exceptions: Vec<Rule> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        if rule.is_about_everything() {
            default = Some(rule.verdict);
            exceptions.clear();
        } else if default != Some(rule.verdict) {
            exceptions.push(*rule);
        } else if exceptions.iter().any(|exception| is_part(rule, exception)) {
            return Err(Refusal {
                field: format!("linux.resources.devices[{at}]"),
                why: "takes back a part of an earlier rule, which cgroup version 1 cannot".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether two rules are about the same device and access without being about the same devices.
fn is_part(rule: &Rule, exception: &Rule) -> bool {
    let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    let kinds_meet = rule.kind == exception.kind || rule.kind == Kind::Both || exception.kind == Kind::Both;
    let same = (rule.major, rule.minor) == (exception.major, exception.minor)
        && (rule.kind == exception.kind || rule.kind == Kind::Both);
    let both = meet(rule.major, exception.major) && meet(rule.minor, exception.minor) && kinds_meet;
    both && rule.access & exception.access != 0 && !same
}

/// A rule in the controller's words. Its `a` is everything, whatever follows it.
fn lines(rule: &Rule) -> Vec<String> {
    if rule.is_about_everything() {
        return vec!["a".to_owned()];
    }
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')];
    let access: String =
        letters.iter().filter(|(bit, _)| rule.access & EVERY_ACCESS & bit != 0).map(|(_, l)| l).collect();
    let line = |kind| format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
    match rule.kind {
        Kind::Block => vec![line('b')],
        Kind::Character => vec![line('c')],
        Kind::Both => vec![line('b'), line('c')],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rule =
        Rule { verdict: Verdict::Deny, kind: Kind::Both, major: None, minor: None, access: EVERY_ACCESS };

    #[test]
    fn rules_are_written_as_the_controller_reads_them() {
        let rule =
            Rule { kind: Kind::Character, major: Some(1), minor: Some(3), access: READ | WRITE, ..ALL };
        assert_eq!(lines(&rule), ["c 1:3 rw"]);
        assert_eq!(lines(&Rule { kind: Kind::Block, minor: None, ..rule }), ["b 1:* rw"]);
        assert_eq!(lines(&ALL), ["a"]);
        assert_eq!(lines(&Rule { access: MAKE, ..ALL }), ["b *:* m", "c *:* m"], "and not everything");
    }

    #[test]
    fn a_list_that_the_controller_would_get_wrong_is_refused() {
        let wide = Rule { verdict: Verdict::Allow, kind: Kind::Character, major: Some(1), ..ALL };
        let narrow = Rule { minor: Some(3), verdict: Verdict::Deny, ..wide };
        let given = Rule { verdict: Verdict::Allow, ..narrow };
        let field = |rules: &[Rule]| check(rules).err().map(|refusal| refusal.field);
        assert_eq!(field(&[ALL, wide, narrow]).as_deref(), Some("linux.resources.devices[2]"));
        assert_eq!(field(&[ALL, given, narrow]), None, "as it was given");
        assert_eq!(field(&[ALL, Rule { access: READ, ..wide }, Rule { access: WRITE, ..narrow }]), None);
        assert_eq!(field(&[ALL, wide, ALL, narrow]), None);
    }
}
