//! The transport over FCM HTTP v1. Pure translation lives in [`crate::fcm`]; here the words of the port meet it.

pub mod encode;
