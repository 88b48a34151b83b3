//! RESP2, the protocol of Redis clients (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

pub mod reply;
pub mod request;
