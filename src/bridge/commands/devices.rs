//! `device.list` and `device.forget`.

use super::Commands;
use super::answers::Answers;
use crate::bridge::presence::PresenceWord;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::suffix::devices::VerifyTokens;
use crate::chat::topic::Device;
use crate::ops::clock::now_ms;
use crate::store::{DeviceChange, KnownDevice, StoreError};
use serde_json::{Value, json};

impl Commands {
    pub(super) async fn list_devices(&self, user: &Owner, answers: &Answers) -> Result<(), StoreError> {
        let context = &self.context;
        let devices = context.store.chat_devices(user.clone()).await?.await?;
        let is_user = context.directory.role_of(user.as_str()) == Some(Role::User);
        // Somebody in the users file who never logged in has no devices, and is a user.
        if devices.is_empty() && !is_user && context.store.chat_settings(user.clone()).await?.await?.is_none() {
            answers.refuse(&Rejection::new(ErrorCode::NotFound, "there is no chat user of this name")).await;
            return Ok(());
        }
        answers.done(json!({ "items": devices.into_iter().map(item).collect::<Vec<_>>() })).await;
        Ok(())
    }

    /// Its user is told, and pushes that wait are withdrawn, as if the device itself had said so.
    pub(super) async fn forget_device(&self, user: &Owner, dev: &Device, answers: &Answers) -> Result<(), StoreError> {
        let context = &self.context;
        let known = context.store.chat_devices(user.clone()).await?.await?;
        if !known.iter().any(|known| known.dev == *dev) {
            let rejection = Rejection::new(ErrorCode::NotFound, "the user has no such device with a token");
            answers.refuse(&rejection).await;
            return Ok(());
        }
        let verify = VerifyTokens::Never;
        let change =
            DeviceChange { user: user.clone(), dev: dev.clone(), registration: None, proof: String::new(), verify };
        let call = context.chat_call(now_ms(), 0, &self.policy);
        context.store.chat_device(change, call).await?.await?;
        let _ = context.presences.send(PresenceWord::Token(user.clone(), dev.clone(), false)).await;
        answers.done(json!({})).await;
        Ok(())
    }
}

fn item(device: KnownDevice) -> Value {
    let KnownDevice { dev, token_hash, registered_at, pushed_at, error } = device;
    let error = error.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    json!({
        "dev": dev.as_str(),
        "token_hash": token_hash,
        "registered_at": registered_at,
        "last_push": pushed_at,
        "last_error": error,
    })
}
