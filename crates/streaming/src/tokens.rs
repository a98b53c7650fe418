//! Tokens: each stands for one request for a short while, and for one use.
//!
//! A token is all that a client has to show. It is therefore longer than anyone can guess, and is forgotten when it is used and
//! when nobody came.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::backend::Request;
use crate::error::Error;

/// How long a client has to come: as with the peers (cri-streaming, `request_cache.go`).
pub(crate) const LIFE: Duration = Duration::from_secs(60);

/// How many requests may wait: as with the peers.
pub(crate) const LIMIT: usize = 1_000;

/// What waiting requests may hold together, in bytes of their texts. A single call may bring 16 MiB.
const BYTES: usize = 32 << 20;

/// 192 bits; 32 characters of URL-safe base64.
const RANDOM_BYTES: usize = 24;

/// The requests that wait for their clients.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<String, Request>,
    /// All tokens of the last [`LIFE`], used ones too, from the oldest on.
    order: VecDeque<(Instant, String)>,
    bytes: usize,
}

impl Tokens {
    /// Remembers a request, and gives the token for it.
    ///
    /// # Errors
    /// [`Error::TooManyTokens`] and [`Error::TooLong`] when too much waits already, [`Error::Random`].
    pub(crate) fn insert(&self, request: Request) -> Result<String, Error> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(|cause| Error::Random { cause })?;
        let token = URL_SAFE_NO_PAD.encode(random);
        let now = Instant::now();
        let mut waiting = self.waiting();
        waiting.prune(now);
        if waiting.requests.len() >= LIMIT {
            return Err(Error::TooManyTokens { limit: LIMIT });
        }
        let bytes = size(&request);
        if waiting.bytes + bytes > BYTES {
            return Err(Error::TooLong { limit: BYTES });
        }
        waiting.bytes += bytes;
        waiting.order.push_back((now + LIFE, token.clone()));
        waiting.requests.insert(token.clone(), request);
        Ok(token)
    }

    /// Whether a token stands for a request of this kind. It may be used all the same by somebody else before [`Tokens::take`].
    pub(crate) fn knows(&self, token: &str, is_kind: fn(&Request) -> bool) -> bool {
        let mut waiting = self.waiting();
        waiting.prune(Instant::now());
        waiting.requests.get(token).is_some_and(is_kind)
    }

    /// Uses a token, unless its request is refused.
    ///
    /// # Errors
    /// Those of `check`; the token is as good as before.
    pub(crate) fn take<E>(
        &self,
        token: &str,
        check: impl FnOnce(&Request) -> Result<(), E>,
    ) -> Result<Option<Request>, E> {
        let mut waiting = self.waiting();
        waiting.prune(Instant::now());
        let Some(request) = waiting.requests.get(token) else { return Ok(None) };
        check(request)?;
        let request = waiting.requests.remove(token);
        waiting.bytes -= request.as_ref().map_or(0, size);
        Ok(request)
    }

    /// Forgets what nobody came for.
    pub(crate) fn prune(&self) {
        self.waiting().prune(Instant::now());
    }

    /// What is in there stays right whatever panicked meanwhile.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn prune(&mut self, now: Instant) {
        while let Some((expires, _)) = self.order.front() {
            // A used token goes before its time, lest used ones pile up behind it.
            let is_used = self.order.front().is_some_and(|(_, token)| !self.requests.contains_key(token));
            if *expires > now && !is_used {
                return;
            }
            if let Some((_, token)) = self.order.pop_front()
                && let Some(request) = self.requests.remove(&token)
            {
                self.bytes -= size(&request);
            }
        }
    }
}

fn size(request: &Request) -> usize {
    match request {
        Request::Exec(exec) => {
            exec.container.len()
                + exec.command.iter().map(|word| word.len() + size_of::<String>()).sum::<usize>()
        }
        Request::Attach(attach) => attach.container.len(),
        Request::PortForward { pod, ports } => pod.len() + size_of_val(ports.as_slice()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(tokens: &Tokens, token: &str) -> Option<Request> {
        tokens.take(token, |_| Ok::<_, ()>(())).unwrap()
    }

    #[test]
    fn a_refusal_uses_no_token() {
        let tokens = Tokens::default();
        let token = tokens.insert(request()).unwrap();
        assert_eq!(tokens.take(&token, |_| Err("not by this protocol")), Err("not by this protocol"));
        assert_eq!(take(&tokens, &token), Some(request()));
    }
    use crate::backend::{AttachRequest, ExecRequest, Streams};

    fn request() -> Request {
        Request::Attach(AttachRequest { container: "c".into(), streams: Streams::default() })
    }

    fn long(bytes: usize) -> Request {
        let command = vec!["x".repeat(bytes)];
        Request::Exec(ExecRequest { container: "c".into(), command, streams: Streams::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.insert(request()).unwrap();
        assert_eq!(token.len(), 32);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        tokio::time::advance(LIFE - Duration::from_millis(1)).await;
        assert!(tokens.knows(&token, |_| true));
        assert!(!tokens.knows(&token, |_| false), "another kind of request");
        assert_eq!(take(&tokens, &token), Some(request()));
        assert_eq!(take(&tokens, &token), None);
        let late = tokens.insert(request()).unwrap();
        tokio::time::advance(LIFE).await;
        assert_eq!(take(&tokens, &late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_forgotten() {
        let tokens = Tokens::default();
        for _ in 0..LIMIT {
            tokens.insert(request()).unwrap();
        }
        assert!(matches!(tokens.insert(request()), Err(Error::TooManyTokens { limit: LIMIT })));
        tokio::time::advance(LIFE).await;
        tokens.insert(request()).unwrap();
        assert_eq!(tokens.waiting().requests.len(), 1);
        assert_eq!(tokens.waiting().order.len(), 1);
        for _ in 0..LIMIT * 3 {
            let token = tokens.insert(request()).unwrap();
            take(&tokens, &token).unwrap();
        }
        assert!(tokens.waiting().order.len() <= LIMIT * 3 + 1);
        tokio::time::advance(LIFE).await;
        tokens.prune();
        let waiting = tokens.waiting();
        assert_eq!((waiting.order.len(), waiting.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn long_commands_do_not_add_up() {
        let tokens = Tokens::default();
        let first = tokens.insert(long(BYTES / 2)).unwrap();
        assert!(matches!(tokens.insert(long(BYTES / 2)), Err(Error::TooLong { .. })));
        take(&tokens, &first).unwrap();
        tokens.insert(long(BYTES / 2)).unwrap();
    }
}
