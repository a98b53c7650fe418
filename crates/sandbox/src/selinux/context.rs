//! A context, `user:role:type:level`, and what a request may put into it.

use std::fmt;

use crate::container::config::SelinuxOptions;

/// Longer than any policy's names.
const LONGEST: usize = 256;

/// A security context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) user: String,
    pub(super) role: String,
    pub(super) kind: String,
    /// `None` in a policy without levels.
    pub(super) level: Option<String>,
}

impl Context {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_end_matches('\0').splitn(4, ':');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        Some(Self { user: part()?, role: part()?, kind: part()?, level: part() })
    }

    /// Takes over what is said.
    pub(super) fn change(&mut self, options: &SelinuxOptions) {
        let said = [
            (&mut self.user, &options.user),
            (&mut self.role, &options.role),
            (&mut self.kind, &options.kind),
        ];
        for (part, wanted) in said {
            if !wanted.is_empty() {
                part.clone_from(wanted);
            }
        }
        if !options.level.is_empty() {
            self.level = Some(options.level.clone());
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(f, ":{level}"))
    }
}

/// Checks the form of options: each is one part of a context and no more, so that none can say something about another. Whether
/// the policy knows what comes of it is the kernel's to say.
///
/// # Errors
/// Which part is wrong, and why.
pub(super) fn check(options: &SelinuxOptions) -> Result<(), (&'static str, String)> {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    // Ranges and categories (semanage-user(8)): "s0-s15:c0.c1023", "s0:c1,c2".
    let level = |c: char| name(c) || matches!(c, ':' | ',');
    let parts = [
        ("user", &options.user, options.user.chars().all(name)),
        ("role", &options.role, options.role.chars().all(name)),
        ("type", &options.kind, options.kind.chars().all(name)),
        ("level", &options.level, options.level.chars().all(level)),
    ];
    for (part, text, is_allowed) in parts {
        if text.len() > LONGEST || !is_allowed {
            return Err((part, format!("\"{}\" cannot be part of a context", text.escape_debug())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_a_round_trip() {
        for text in ["a_u:b_r:c_t", "a_u:b_r:c_t:s0", "a_u:b_r:c_t:s0-s15:c0.c1023", "a_u:b_r:c_t:s0:c1,c2"] {
            assert_eq!(Context::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Context::parse("a_u:b_r:c_t:s0\0").unwrap().level.as_deref(), Some("s0"));
        for text in ["", "kernel", "a:b", "a::c"] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_option_is_one_part_and_no_more() {
        type Change = fn(&mut SelinuxOptions, &str);
        let parts: [(&str, Change); 4] = [
            ("user", |options, text| options.user = text.into()),
            ("role", |options, text| options.role = text.into()),
            ("type", |options, text| options.kind = text.into()),
            ("level", |options, text| options.level = text.into()),
        ];
        for (part, change) in parts {
            for text in ["a b", "a\0", "a\n", "a\"", "a,context=x\"", "ä", &"a".repeat(300)] {
                let mut options = SelinuxOptions::default();
                change(&mut options, text);
                assert_eq!(check(&options).unwrap_err().0, part, "{text:?}");
            }
            let mut options = SelinuxOptions::default();
            change(&mut options, if part == "level" { "s0-s0:c0.c5,c7" } else { "container_t" });
            check(&options).unwrap();
        }
        let smuggled = SelinuxOptions { kind: "container_t:s0".into(), ..Default::default() };
        assert_eq!(check(&smuggled).unwrap_err().0, "type");
    }
}
