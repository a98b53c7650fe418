//! Where in a trace a call is: W3C Trace Context, level 1, as it comes in the metadata of a request.
//!
//! Not here: what is done with it (the parent module).

use std::sync::Arc;

use tonic::codegen::http::HeaderMap;

/// The longest trace state that is passed on, in bytes: what the recommendation wants to be propagated at least (3.3.1.5).
const LONGEST_STATE: usize = 512;

/// The bit of the flags that says that the caller records its part (2.2.2.1.4).
const SAMPLED: u8 = 1;

/// A span's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The trace.
    pub(super) trace: [u8; 16],
    /// The span in it.
    pub(super) span: [u8; 8],
    /// What systems on the way keep in it; empty for nothing.
    pub(super) state: Arc<str>,
}

/// What a caller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nothing, or nothing that can be understood: the call begins a trace of its own, if any.
    Untraced,
    /// It doesn't record this trace, and neither shall we.
    NotSampled,
    /// It records the span that the call belongs to.
    Sampled(Place),
}

/// Reads a request's metadata.
pub(super) fn read(headers: &HeaderMap) -> Caller {
    let said = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let Some((trace, span, flags)) = said.and_then(parent) else { return Caller::Untraced };
    if flags & SAMPLED == 0 {
        return Caller::NotSampled;
    }
    Caller::Sampled(Place { trace, span, state: state(headers).into() })
}

/// The trace state, which may come in several lines (3.3.1.1); one that is too long, or no text, is left out as a whole.
fn state(headers: &HeaderMap) -> String {
    let lines: Result<Vec<&str>, _> =
        headers.get_all("tracestate").iter().map(|value| value.to_str()).collect();
    lines.map(|lines| lines.join(",")).ok().filter(|state| state.len() <= LONGEST_STATE).unwrap_or_default()
}

/// `version-trace-span-flags`, in lower-case hexadecimal digits. A later version may have more behind that.
fn parent(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut parts = text.split('-');
    let [version] = digits::<1>(parts.next()?)?;
    let (trace, span, [flags]) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    let is_valid = match version {
        0 => parts.next().is_none(),
        version => version != 0xff,
    };
    (is_valid && trace != [0; 16] && span != [0; 8]).then_some((trace, span, flags))
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Bytes as they are written in log lines.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(parent: &str) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("tracestate", "vendor=value".parse().unwrap());
        read(&headers)
    }

    #[test]
    fn a_traced_caller_is_understood() {
        let Caller::Sampled(place) = of(&format!("00-{TRACE}-{SPAN}-01")) else { panic!("sampled") };
        assert_eq!((hexadecimal(&place.trace), hexadecimal(&place.span)), (TRACE.into(), SPAN.into()));
        assert_eq!(&*place.state, "vendor=value");
        assert_eq!(of(&format!("00-{TRACE}-{SPAN}-02")), Caller::NotSampled);
        assert!(
            matches!(of(&format!("01-{TRACE}-{SPAN}-03-more")), Caller::Sampled(_)),
            "of a later version"
        );
    }

    #[test]
    fn a_trace_state_may_come_in_several_lines() {
        let state_of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("tracestate", line.parse().unwrap());
            }
            state(&headers)
        };
        assert_eq!(state_of(&["one=1", "two=2,three=3"]), "one=1,two=2,three=3");
        assert_eq!(state_of(&[]), "");
        assert_eq!(state_of(&["one=1", &"x".repeat(LONGEST_STATE)]), "", "half of it would be another one");
    }

    #[test]
    fn what_is_not_understood_is_no_trace() {
        let zeros = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}x-{SPAN}-01"),
        ] {
            assert_eq!(of(&wrong), Caller::Untraced, "{wrong}");
        }
        assert_eq!(read(&HeaderMap::new()), Caller::Untraced);
    }
}
