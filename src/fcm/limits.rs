//! The numbers of FCM's documents, for both sides of the wire.

/// Keys and values of `data` and `notification` of a message to one device, in bytes. How FCM counts is not published:
/// this is the count of topics.md.
pub const PAYLOAD_MAX: usize = 4096;
/// The same of a message to a topic or a condition.
pub const TOPIC_PAYLOAD_MAX: usize = 2048;
/// Longest time to live in seconds: four weeks, and the default.
pub const TTL_MAX: u32 = 2_419_200;
/// Longest name of a topic.
pub const TOPIC_NAME_MAX: usize = 900;
/// Longest `apns-collapse-id`, in bytes (Apple's limit).
pub const APNS_COLLAPSE_MAX: usize = 64;
/// Longest `Topic` header of web push, in characters of base64url (RFC 8030, section 5.4).
pub const WEBPUSH_TOPIC_MAX: usize = 32;
/// Most bytes of an answer that are looked at; the longest that FCM sends are a few kilobytes.
pub const ANSWER_MAX: usize = 64 * 1024;
