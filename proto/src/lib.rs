//! The `agentd.v1` messages and services, generated from `proto/agentd/v1/agentd.proto`.
//!
//! Every message serialises to JSON with the field names of the proto; absent optional fields and
//! empty lists are left out.

#[doc(hidden)]
pub mod skip {
    /// Whether a field is empty and is left out of the JSON form.
    pub trait Skip {
        fn skip(&self) -> bool;
    }
    impl<T> Skip for Option<T> {
        fn skip(&self) -> bool {
            self.is_none()
        }
    }
    impl<T> Skip for Vec<T> {
        fn skip(&self) -> bool {
            self.is_empty()
        }
    }
    macro_rules! never {
        ($($t:ty),*) => {$(impl Skip for $t { fn skip(&self) -> bool { false } })*};
    }
    never!(u32, i32, u64, f64, bool, String);
}

/// The API's version 1.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("agentd.v1");
}

/// The API as a `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("agentd.v1");

/// The name of the API, as `Version` reports it.
pub const API: &str = "agentd.v1";

/// The longest message that either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// The longest answer, in bytes: the list of very many sessions.
pub const MAX_REPLY: usize = 32 << 20;
