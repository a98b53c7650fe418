//! The contract is whole.

use prost_reflect::DescriptorPool;

#[test]
fn every_method_is_there() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    for (name, count) in [("runtime.v1.RuntimeService", 37), ("runtime.v1.ImageService", 6)] {
        assert_eq!(pool.get_service_by_name(name).unwrap().methods().count(), count, "{name}");
    }
}
