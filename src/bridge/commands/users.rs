//! `user.erase`, `user.export` and `user.free`.

use super::Commands;
use super::answers::Answers;
use crate::bridge::erasing;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::store::{ExportPage, StoreError};
use serde_json::json;

impl Commands {
    pub(super) async fn erase_user(&self, user: &Owner, answers: &Answers) -> Result<(), StoreError> {
        let context = &self.context;
        let role = context.directory.role_of(user.as_str());
        let is_heard_of = context.store.chat_settings(user.clone()).await?.await?.is_some();
        let is_known = is_heard_of || role == Some(Role::User) || context.store.is_erased(user.as_str());
        if matches!(role, Some(Role::Bal | Role::Admin)) || !is_known {
            let rejection = Rejection::new(ErrorCode::NotFound, "there is no chat user of this name");
            answers.refuse(&rejection).await;
            return Ok(());
        }
        let Ok(_place) = self.erases.try_acquire() else {
            let rejection = Rejection::new(ErrorCode::RateLimited, "too many users are erased at one time");
            answers.refuse(&rejection).await;
            return Ok(());
        };
        let erased = erasing::erase(context, user).await?;
        answers.done(erasing::told(&erased)).await;
        Ok(())
    }

    /// Each page is a document.
    pub(super) async fn export_user(&self, user: &Owner, answers: &Answers) -> Result<(), StoreError> {
        let store = &self.context.store;
        if store.chat_settings(user.clone()).await?.await?.is_none() {
            let rejection = Rejection::new(ErrorCode::NotFound, "there is no chat user of this name");
            answers.refuse(&rejection).await;
            return Ok(());
        }
        let mut after = String::new();
        while let Some(ExportPage { items, next }) = store.chat_export(user.clone(), after).await?.await? {
            let Some(next) = next.filter(|_| !answers.is_unheard()) else {
                answers.done(json!({ "items": items })).await;
                break;
            };
            answers.more(json!({ "items": items })).await;
            after = next;
        }
        Ok(())
    }

    pub(super) async fn free_user(&self, user: &Owner, answers: &Answers) -> Result<(), StoreError> {
        let store = &self.context.store;
        if store.is_erased(user.as_str()) {
            // Before: from then on the name may be somebody's.
            erasing::forget(&self.context, user);
        }
        if store.free_name(user.clone()).await? {
            answers.done(json!({})).await;
        } else {
            let detail = "the name is not that of an erased user, or the erase is not done";
            answers.refuse(&Rejection::new(ErrorCode::NotFound, detail)).await;
        }
        Ok(())
    }
}
