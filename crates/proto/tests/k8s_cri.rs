//! Bytes of ours, read and written again by an independent client: the k8s-cri crate, which has an older contract.
//!
//! Every message that both have is filled in every field that both have, sent there and back, and must be the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::Command;

use k8s_cri::v1 as theirs;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

/// Reads and writes a message by their type.
type Echo = fn(&[u8]) -> Vec<u8>;

macro_rules! echoes {
    ($($name:ident)*; $($contract:literal => $renamed:ident)*) => {
        [$((stringify!($name), echo::<theirs::$name> as Echo),)* $(($contract, echo::<theirs::$renamed> as Echo),)*]
    };
}

fn echo<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("they can read it").encode_to_vec()
}

#[test]
fn messages_survive_an_independent_client() {
    let ours = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let known = their_contract();
    let table = table();
    let mut compared = 0;
    for message in ours.all_messages().filter(|message| !message.is_map_entry()) {
        let Some(their) = known.get_message_by_name(message.full_name()) else { continue };
        let name = message.full_name().trim_start_matches("runtime.v1.");
        let (_, echo) = table
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("add {name} to the table"));
        let sent = filled(&message, &their, 3);
        let back = DynamicMessage::decode(message.clone(), echo(&sent.encode_to_vec()).as_slice()).unwrap();
        assert_eq!(back, sent, "{name}");
        assert_eq!(back.unknown_fields().count(), 0, "{name}");
        compared += 1;
    }
    assert_eq!(compared, table.len(), "every type of the table is in both contracts");
}

/// The contract that the crate was made from, which it ships.
fn their_contract() -> DescriptorPool {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments =
        ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output =
        Command::new(env!("CARGO")).args(arguments).args(["--manifest-path", manifest]).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata");
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "k8s-cri").expect("the crate");
    let directory = PathBuf::from(package["manifest_path"].as_str().unwrap()).parent().unwrap().join("proto");
    let files = protox::compile([directory.join("v1.proto")], [&directory]).expect("their contract compiles");
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// A message with a value in every field that both contracts have, nested so deep.
fn filled(ours: &MessageDescriptor, theirs: &MessageDescriptor, depth: u32) -> DynamicMessage {
    let mut message = DynamicMessage::new(ours.clone());
    for field in ours.fields() {
        let Some(their) = theirs.get_field_by_name(field.name()) else { continue };
        assert_eq!(field.number(), their.number(), "{}", field.full_name());
        assert_eq!(field.cardinality(), their.cardinality(), "{}", field.full_name());
        if let Some(value) = value(&field, &their, depth) {
            message.set_field(&field, value);
        }
    }
    message
}

fn value(ours: &FieldDescriptor, theirs: &FieldDescriptor, depth: u32) -> Option<Value> {
    if ours.is_map() {
        let key = |n: u32| MapKey::String(format!("key-{n}"));
        return Some(Value::Map((0..3).map(|n| (key(n), Value::String(format!("value-{n}")))).collect()));
    }
    let one = || single(ours, theirs, depth);
    if ours.is_list() { Some(Value::List(vec![one()?, one()?])) } else { one() }
}

/// Numbers come from the field's own, so that two fields that changed places show.
fn single(ours: &FieldDescriptor, theirs: &FieldDescriptor, depth: u32) -> Option<Value> {
    let number = ours.number();
    Some(match (ours.kind(), theirs.kind()) {
        (Kind::Message(ours), Kind::Message(theirs)) => Value::Message(if depth == 0 {
            return None;
        } else {
            filled(&ours, &theirs, depth - 1)
        }),
        (Kind::Enum(ours), Kind::Enum(theirs)) => enumerated(&ours, &theirs),
        (Kind::Bool, Kind::Bool) => Value::Bool(true),
        (Kind::Int32, Kind::Int32) => Value::I32(-i32::try_from(number).unwrap()),
        (Kind::Int64, Kind::Int64) => Value::I64(-i64::from(number) << 40),
        (Kind::Uint32, Kind::Uint32) => Value::U32(number << 20),
        (Kind::Uint64, Kind::Uint64) => Value::U64(u64::from(number) << 50),
        (Kind::Double, Kind::Double) => Value::F64(f64::from(number) / 3.0),
        (Kind::String, Kind::String) => Value::String(format!("text of field {number}")),
        // Bytes where the older contract has text: the same on the wire.
        (Kind::Bytes, Kind::Bytes | Kind::String) => {
            Value::Bytes(format!("bytes of field {number}").into_bytes().into())
        }
        (ours, theirs) => panic!("a kind changed: {ours:?}, {theirs:?}"),
    })
}

/// The last value that both have. A number alone survives any client, so the names are compared here.
fn enumerated(ours: &EnumDescriptor, theirs: &EnumDescriptor) -> Value {
    let shared = ours.values().filter_map(|our| Some((our.number(), theirs.get_value_by_name(our.name())?)));
    let last = shared.inspect(|(number, their)| assert_eq!(*number, their.number(), "{}", their.full_name()));
    Value::EnumNumber(last.map(|(number, _)| number).max().expect("a value that both have"))
}

fn table() -> Vec<(&'static str, Echo)> {
    echoes![
        AttachRequest AttachResponse AuthConfig Capability CheckpointContainerRequest
        CheckpointContainerResponse Container ContainerAttributes ContainerConfig
        ContainerEventResponse ContainerFilter ContainerMetadata ContainerMetrics ContainerResources
        ContainerStateValue ContainerStats ContainerStatsFilter ContainerStatsRequest
        ContainerStatsResponse ContainerStatus ContainerStatusRequest ContainerStatusResponse
        ContainerUser CpuUsage CreateContainerRequest CreateContainerResponse Device ExecRequest
        ExecResponse ExecSyncRequest ExecSyncResponse FilesystemIdentifier FilesystemUsage
        GetEventsRequest HugepageLimit Image ImageFilter ImageFsInfoRequest ImageFsInfoResponse
        ImageSpec ImageStatusRequest ImageStatusResponse Int64Value KeyValue LinuxContainerConfig
        LinuxContainerResources LinuxContainerSecurityContext LinuxContainerUser
        LinuxPodSandboxConfig LinuxPodSandboxStats LinuxPodSandboxStatus LinuxRuntimeConfiguration
        LinuxSandboxSecurityContext ListContainerStatsRequest ListContainerStatsResponse
        ListContainersRequest ListContainersResponse ListImagesRequest ListImagesResponse
        ListMetricDescriptorsRequest ListMetricDescriptorsResponse ListPodSandboxMetricsRequest
        ListPodSandboxMetricsResponse ListPodSandboxRequest ListPodSandboxResponse
        ListPodSandboxStatsRequest ListPodSandboxStatsResponse MemoryUsage Metric MetricDescriptor
        Mount Namespace NamespaceOption NetworkConfig NetworkInterfaceUsage NetworkUsage PodSandbox
        PodSandboxAttributes PodSandboxConfig PodSandboxFilter PodSandboxMetadata PodSandboxMetrics
        PodSandboxNetworkStatus PodSandboxStateValue PodSandboxStats PodSandboxStatsFilter
        PodSandboxStatsRequest PodSandboxStatsResponse PodSandboxStatus PodSandboxStatusRequest
        PodSandboxStatusResponse PortForwardRequest PortForwardResponse PortMapping ProcessUsage
        PullImageRequest PullImageResponse RemoveContainerRequest RemoveContainerResponse
        RemoveImageRequest RemoveImageResponse RemovePodSandboxRequest RemovePodSandboxResponse
        ReopenContainerLogRequest ReopenContainerLogResponse RunPodSandboxRequest
        RunPodSandboxResponse RuntimeCondition RuntimeConfig RuntimeConfigRequest
        RuntimeConfigResponse RuntimeFeatures RuntimeHandler RuntimeHandlerFeatures RuntimeStatus
        SecurityProfile StartContainerRequest StartContainerResponse StatusRequest StatusResponse
        StopContainerRequest StopContainerResponse StopPodSandboxRequest StopPodSandboxResponse
        SwapUsage UInt64Value UpdateContainerResourcesRequest UpdateContainerResourcesResponse
        UpdateRuntimeConfigRequest UpdateRuntimeConfigResponse UserNamespace VersionRequest
        VersionResponse WindowsContainerConfig WindowsContainerResources
        WindowsContainerSecurityContext WindowsContainerStats WindowsCpuGroupAffinity
        WindowsCpuUsage WindowsFilesystemUsage WindowsMemoryUsage WindowsNamespaceOption
        WindowsNetworkInterfaceUsage WindowsNetworkUsage WindowsPodSandboxConfig
        WindowsPodSandboxStats WindowsProcessUsage WindowsSandboxSecurityContext;
        "CDIDevice" => CdiDevice "DNSConfig" => DnsConfig "IDMapping" => IdMapping "PodIP" => PodIp "SELinuxOption" => SeLinuxOption
    ]
    .to_vec()
}
