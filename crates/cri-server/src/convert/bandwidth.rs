//! Annotations that limit a pod's traffic, read.
//!
//! Kubernetes has no field for them: the annotations are the interface, and their values are Kubernetes quantities of bits a
//! second. Not here: what becomes of the limits, which is the plugins' (capability `bandwidth`).

use std::collections::BTreeMap;

use sandbox::Error;

use super::quantity;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What Kubernetes takes for a limit that is meant: 1k to 1P, in bits a second (kubelet, `pkg/util/bandwidth`).
const SENSIBLE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// The limits of a pod with these annotations; `None` when there are none.
///
/// # Errors
/// [`Error::Refused`] with the annotation, when its value is no quantity or none that can be meant.
pub(crate) fn read(annotations: &BTreeMap<String, String>) -> Result<Option<cni::Bandwidth>, Error> {
    let (ingress_rate, egress_rate) = (rate(annotations, INGRESS)?, rate(annotations, EGRESS)?);
    // The plugin wants a burst with each rate; this is the largest that it takes, as with other runtimes.
    let burst = |rate: u64| if rate == 0 { 0 } else { u64::from(u32::MAX) };
    Ok((ingress_rate > 0 || egress_rate > 0).then(|| cni::Bandwidth {
        ingress_rate,
        ingress_burst: burst(ingress_rate),
        egress_rate,
        egress_burst: burst(egress_rate),
    }))
}

/// Zero for no limit.
fn rate(annotations: &BTreeMap<String, String>, key: &str) -> Result<u64, Error> {
    let Some(text) = annotations.get(key) else { return Ok(0) };
    let refused = |why: &str| Error::refused(format!("annotations[\"{key}\"]"), format!("\"{text}\" {why}"));
    let rate = quantity::read(text).ok_or_else(|| refused("is not a quantity such as 10M"))?;
    if SENSIBLE.contains(&rate) { Ok(rate) } else { Err(refused("is not between 1k and 1P bits a second")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(key: &str, value: &str) -> BTreeMap<String, String> {
        [(key.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn each_direction_has_its_limit() {
        assert_eq!(read(&BTreeMap::new()).unwrap(), None);
        let limits = read(&annotated(EGRESS, "1.5M")).unwrap().unwrap();
        assert_eq!((limits.egress_rate, limits.egress_burst), (1_500_000, u64::from(u32::MAX)));
        assert_eq!((limits.ingress_rate, limits.ingress_burst), (0, 0));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_the_annotation() {
        for value in ["fast", "", "-1M", "500m", "0", "999", "2P", "1E"] {
            let error = read(&annotated(INGRESS, value)).unwrap_err().to_string();
            let field = "annotations[\"kubernetes.io/ingress-bandwidth\"]: ";
            assert!(error.starts_with(field) && error.contains(&format!("\"{value}\"")), "{error}");
        }
    }
}
