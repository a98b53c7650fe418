//! `WWW-Authenticate`: how a registry asks who we are (RFC 9110 section 11.6.1).
//!
//! Not here: answering (`token`).

/// A scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter; an empty one is as good as none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Reads the challenges of one header, which may have several. What can't be read ends the list.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let value = after.trim_start().strip_prefix('=').and_then(|after| value(after.trim_start()));
        match (value, challenges.last_mut()) {
            (Some((value, after)), Some(challenge)) => {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// The leading token (RFC 9110 section 5.6.2), and what follows it.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A token or a quoted text, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries leave the quotes of addresses out: take all up to the next comma or space.
        let (word, rest) = text.split_at(text.find([',', ' ']).unwrap_or(text.len()));
        return Some((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull,push""#;
        let [bearer] = &parse(hub)[..] else { panic!() };
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(bearer.get("service"), Some("registry.docker.io"));
        assert_eq!(bearer.get("scope"), Some("repository:library/a:pull,push"));
        assert_eq!(bearer.get("error"), None);
    }

    #[test]
    fn reads_several_at_once_and_odd_forms() {
        let [first, second] = &parse(r#"BASIC realm = "a \"b\"" , Bearer Realm=https://t/x, scope="" "#)[..]
        else {
            panic!()
        };
        assert_eq!((first.scheme.as_str(), first.get("realm")), ("basic", Some("a \"b\"")));
        assert_eq!((second.get("realm"), second.get("scope")), (Some("https://t/x"), None));
    }

    #[test]
    fn survives_nonsense() {
        for text in
            ["", "=", ",,,", "Bearer realm=\"", "Bearer realm=\"a\\", "\"x\"", "a=b", "é=é", "Bearer é"]
        {
            let _ = parse(text);
        }
        assert!(parse("realm=\"x\"").is_empty());
    }
}
