//! Documents, read by every rule that there is for them.

use super::media::{DOCKER_LIST, DOCKER_MANIFEST};
use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn raw(content_type: &str, text: &str) -> RawDocument {
    let bytes = text.replace("SHA", SHA).into_bytes();
    RawDocument { digest: Digest::of(&bytes), content_type: Some(content_type.to_owned()), bytes }
}

fn refusal(content_type: &str, text: &str) -> String {
    match parse(&raw(content_type, text), None) {
        Err(Error::DocumentRefused { reason, .. }) => reason,
        Err(Error::Document { cause, .. }) => cause.to_string(),
        other => panic!("{text} gives {other:?}"),
    }
}

const MANIFEST: &str = r#"{"schemaVersion":2,
    "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2},
    "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"SHA","size":3,"urls":["http://x/"]}]}"#;
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[
    {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"SHA","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}"#;

#[test]
fn reads_both_kinds_whoever_names_them() {
    for content_type in [OCI_MANIFEST, DOCKER_MANIFEST, "application/json", ""] {
        let Ok(Document::Manifest(manifest)) = parse(&raw(content_type, MANIFEST), None) else { panic!() };
        assert_eq!((manifest.config.size, manifest.layers.len()), (2, 1));
    }
    for content_type in [OCI_INDEX, DOCKER_LIST, "text/plain"] {
        assert!(matches!(parse(&raw(content_type, INDEX), None), Ok(Document::Index(_))));
    }
}

#[test]
fn an_ambiguous_document_is_refused() {
    let both = MANIFEST.replacen('{', &format!("{{\"manifests\":[],\"mediaType\":\"{OCI_MANIFEST}\","), 1);
    for content_type in [OCI_MANIFEST, OCI_INDEX, "application/json"] {
        refusal(content_type, &both);
    }
    assert!(refusal(OCI_INDEX, MANIFEST).contains("lists no manifests"));
    assert!(refusal(OCI_MANIFEST, INDEX).contains("names no configuration"));
    let named = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{OCI_MANIFEST}\","), 1);
    assert!(refusal(DOCKER_MANIFEST, &named).contains("calls itself"));
    let twice = MANIFEST.replacen('{', "{\"layers\":[],", 1);
    assert!(refusal(OCI_MANIFEST, &twice).contains("duplicate"));
}

#[test]
fn a_child_must_be_what_its_index_says() {
    let pointer = |media_type: &str| Descriptor {
        media_type: media_type.to_owned(),
        digest: SHA.parse().unwrap(),
        size: 1,
    };
    let named = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{OCI_MANIFEST}\","), 1);
    let document = raw("text/html", &named);
    assert!(parse(&document, Some(&pointer(OCI_MANIFEST))).is_ok());
    assert!(parse(&document, Some(&pointer(DOCKER_MANIFEST))).is_err());
    assert!(parse(&document, Some(&pointer(OCI_INDEX))).is_err());
}

#[test]
fn other_formats_are_refused_by_name() {
    let old = r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#;
    assert!(refusal("application/json", old).contains("schema 1"));
    assert!(refusal("application/vnd.docker.distribution.manifest.v1+prettyjws", "").contains("schema 1"));
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for media_type in [signed, "application/vnd.docker.distribution.manifest.v1+json"] {
        let own = MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{media_type}\","), 1);
        assert!(refusal("application/json", &own).contains("schema 1"));
        assert!(refusal(media_type, "not even JSON").contains("schema 1"));
    }
    let odd = MANIFEST.replace("layer.v1.tar+gzip", "layer.v1.squashfs");
    assert!(refusal(OCI_MANIFEST, &odd).contains("has the unsupported type"));
    let encrypted = MANIFEST.replace("layer.v1.tar+gzip", "layer.v1.tar+gzip+encrypted");
    assert!(refusal(OCI_MANIFEST, &encrypted).contains("is encrypted"));
    assert!(refusal(OCI_MANIFEST, &MANIFEST.replace("SHA", "sha256:../../x")).contains("not a digest"));
    refusal(OCI_MANIFEST, "[]");
    refusal(OCI_MANIFEST, "{}");
    refusal(OCI_MANIFEST, &"[".repeat(1 << 20));
}

#[test]
fn selects_this_platform_s_entry() {
    let entry = |arch: &str, extra: &str, size: u64| {
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":{size},"platform":{{"os":"linux","architecture":"{arch}"{extra}}}}}"#
        )
    };
    let entries = [
        entry("unknown", "", 1),
        entry("arm", r#","variant":"v7""#, 2),
        entry("arm64", r#","variant":"v8""#, 3),
        entry("amd64", "", 4),
        entry("amd64", "", 5),
    ];
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let Ok(Document::Index(index)) = parse(&raw(OCI_INDEX, &text), None) else { panic!() };
    assert_eq!(index.select(&Platform::linux("amd64")).unwrap().descriptor.size, 4);
    assert_eq!(index.select(&Platform::linux("arm64")).unwrap().descriptor.size, 3);
    match index.select(&Platform::linux("riscv64")) {
        Err(Error::NoPlatform { wanted, offered, .. }) => {
            assert_eq!(wanted, "linux/riscv64");
            assert!(offered.contains("linux/arm64/v8"), "{offered}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_artifact_is_refused_by_the_name_of_its_type() {
    let empty = MANIFEST.replace("image.config.v1", "empty.v1");
    let sbom = empty.replacen('{', r#"{"artifactType":"application/vnd.x.sbom","#, 1);
    let reason = refusal(OCI_MANIFEST, &sbom);
    assert_eq!(
        reason,
        "it is an artifact of the type \"application/vnd.x.sbom\" and no container image: nothing can be run or mounted of it"
    );
    // One needs neither layers, nor a configuration that anybody could read.
    let bare = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"x","size":1}}"#;
    assert!(refusal(OCI_MANIFEST, bare).contains("\"application/vnd.cncf.helm.config.v1+json\""));
    assert!(refusal(OCI_MANIFEST, &empty).contains("without a type"));
    let about_another = MANIFEST.replacen(
        '{',
        r#"{"artifactType":"application/vnd.x","subject":{"mediaType":"a/b","digest":"SHA","size":1},"#,
        1,
    );
    assert!(parse(&raw(OCI_MANIFEST, &about_another), None).is_ok());
}

/// CVE-2021-41190 by another way: other readers don't regard letter case.
#[test]
fn letter_case_makes_no_second_document() {
    let twice = |key: &str, value: &str| MANIFEST.replacen('{', &format!("{{\"{key}\":{value},"), 1);
    for document in [
        twice("Layers", "[]"),
        twice("MANIFESTS", "[]"),
        twice("Config", "null"),
        twice("SchemaVersion", "1"),
        twice("MediaType", "\"\""),
        twice("fslayers", "[]"),
        twice("layer\u{17f}", "[]"),
        twice("laYer\\u0073", "[]"),
        MANIFEST.replacen("\"digest\"", "\"Digest\":\"\",\"digest\"", 1),
        MANIFEST.replace("\"size\":3", "\"size\":3,\"SIZE\":4"),
        MANIFEST.replace("\"urls\"", "\"URLs\""),
    ] {
        assert!(refusal(OCI_MANIFEST, &document).contains("other letter case"), "{document}");
    }
    let index = INDEX.replacen('{', "{\"Config\":{},", 1);
    assert!(refusal(OCI_INDEX, &index).contains("other letter case"));
    let platform = INDEX.replace("\"os\":", "\"OS\":\"linux\",\"os\":");
    assert!(refusal(OCI_INDEX, &platform).contains("other letter case"));
    // Annotations are free, and so is what nobody reads.
    let free = MANIFEST.replacen('{', "{\"annotations\":{\"a\":\"\",\"A\":\"\"},\"x\":1,\"X\":2,", 1);
    assert!(parse(&raw(OCI_MANIFEST, &free), None).is_ok());
}

#[test]
fn lists_in_place_of_objects_are_refused() {
    let list =
        format!(r#"[2,"{OCI_MANIFEST}",null,["application/vnd.oci.image.config.v1+json","SHA",1],[]]"#);
    refusal(OCI_MANIFEST, &list);
    let config = MANIFEST.replace(
        r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2}"#,
        r#"["application/vnd.oci.image.config.v1+json","SHA",2,null,null]"#,
    );
    assert_ne!(config, MANIFEST);
    assert!(refusal(OCI_MANIFEST, &config).contains("expected an object"));
}

#[test]
fn what_is_not_utf_8_is_refused_also_where_nobody_looks() {
    let mut document = raw(OCI_MANIFEST, &MANIFEST.replacen('{', "{\"x\":\"?\",", 1));
    let at = document.bytes.iter().position(|b| *b == b'?').unwrap();
    document.bytes[at] = 0xff;
    match parse(&document, None) {
        Err(Error::DocumentRefused { reason, .. }) => assert_eq!(reason, "it is not UTF-8"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_much_is_refused_with_its_number() {
    let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"SHA","size":3}"#;
    let of = |count: usize| {
        let layers = vec![layer; count].join(",");
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"SHA","size":2}},"layers":[{layers}]}}"#
        )
    };
    assert!(parse(&raw(OCI_MANIFEST, &of(500)), None).is_ok());
    assert_eq!(refusal(OCI_MANIFEST, &of(10_000)), "it has 10000 layers where 500 are the most");
    let entries = vec![r#"{"digest":"","size":0}"#; 100_000].join(",");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    assert_eq!(refusal(OCI_INDEX, &index), "it has 100000 entries where 1000 are the most");
}

#[test]
fn sizes_are_whole_and_possible() {
    for size in ["-3", "3.5", "1e3", "\"3\"", "18446744073709551616", "null"] {
        refusal(OCI_MANIFEST, &MANIFEST.replace("\"size\":3", &format!("\"size\":{size}")));
    }
    let huge = MANIFEST.replace("\"size\":3", "\"size\":9223372036854775808");
    assert_eq!(
        refusal(OCI_MANIFEST, &huge),
        "its layer 1 has the impossible size of 9223372036854775808 bytes"
    );
    assert!(parse(&raw(OCI_MANIFEST, &MANIFEST.replace("\"size\":3", "\"size\":0")), None).is_ok());
}

#[test]
fn a_stranger_s_megabytes_are_not_repeated() {
    let long = "x".repeat(1 << 20);
    for document in [
        MANIFEST.replacen("SHA", &long, 2),
        MANIFEST.replace("layer.v1.tar+gzip", &long),
        MANIFEST.replace("image.config.v1", &long),
        MANIFEST.replacen("\"size\":2", &format!("\"size\":\"{long}\""), 1),
        MANIFEST.replacen('{', &format!("{{\"mediaType\":\"{long}\","), 1),
    ] {
        let error = parse(&raw(OCI_MANIFEST, &document), None).unwrap_err();
        assert!(crate::error::chain(&error).len() < 1000);
    }
}

#[test]
fn what_belongs_to_an_image_is_not_taken_for_one() {
    let entries = [
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":1,"platform":{{"os":"unknown","architecture":"unknown"}}}}"#
        ),
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":2,"artifactType":"application/vnd.x.signature"}}"#
        ),
    ];
    let select = |entries: &[String]| {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let Ok(Document::Index(index)) = parse(&raw(OCI_INDEX, &text), None) else { panic!() };
        index.select(&Platform::linux("amd64"))
    };
    let Err(Error::NoPlatform { offered, .. }) = select(&entries) else { panic!() };
    assert_eq!(offered, "nothing");
    let plain = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"SHA","size":3}}"#);
    let Choice { descriptor, for_platform } = select(&[&entries[..], &[plain]].concat()).unwrap();
    assert_eq!((descriptor.size, for_platform), (3, false));
}
