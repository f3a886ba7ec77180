//! How commands reach the bridge that runs: by the control socket beside its store.

use super::UsageError;
use super::store_place::StorePlace;
use crate::chat::id::Owner;
use crate::ops::control::{self, socket_of};
use anyhow::{Context, bail};
use serde_json::Value;

/// Asks the bridge of this store, and gives each document of its answer to `show`.
///
/// # Errors
/// When no bridge runs there, or it refuses: the text has its code and why.
pub(super) async fn ask(
    store: &StorePlace,
    request: &Value,
    mut show: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = socket_of(store.path());
    let asked = control::ask(&path, request.to_string().as_bytes()).await;
    let mut answer = asked.with_context(|| {
        let (store, hint) = (store.path().display(), store.hint());
        format!("no bridge runs with the store {store}{hint}, or it is another user's ({})", path.display())
    })?;
    let mut is_last = false;
    while let Some(line) = answer.next().await.context("the bridge ended before its answer")? {
        let document: Value = serde_json::from_str(&line).context("the answer of the bridge is no JSON")?;
        if document["ok"] != true {
            bail!("{}: {}", word(&document["code"]), word(&document["detail"]));
        }
        is_last = document["more"] != true;
        show(&document)?;
    }
    if !is_last {
        bail!("the bridge ended before its answer");
    }
    Ok(())
}

/// A name that can be that of a user.
pub(super) fn name(text: &str) -> Result<&str, UsageError> {
    match Owner::new(text) {
        Ok(_) => Ok(text),
        Err(why) => Err(UsageError(format!("`{}` cannot be a user name: it {why}", text.escape_debug()))),
    }
}

/// What a text says; nothing where it is none.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::StoreArgs;
    use crate::ops::control::ControlServer;
    use serde_json::json;
    use std::path::PathBuf;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    fn of(store: PathBuf) -> StorePlace {
        StorePlace::of(StoreArgs { config: None, store: Some(store) }).unwrap()
    }

    /// What is shown, and how it ends, when the bridge answers with these lines.
    async fn answered(lines: &'static [&'static str]) -> (Vec<Value>, anyhow::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let place = of(dir.path().join("s.db"));
        let server = ControlServer::bind(socket_of(place.path())).unwrap();
        let (calls, mut called) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let answer = async {
            let call: control::ControlCall = called.recv().await.unwrap();
            for line in lines {
                call.answers.send((*line).into()).await.unwrap();
            }
        };
        let mut shown = Vec::new();
        let ask = async {
            let request = json!({"op": "drain"});
            let asked = ask(&place, &request, |document| {
                shown.push(document.clone());
                Ok(())
            });
            let (asked, ()) = tokio::join!(asked, answer);
            stop.cancel();
            asked
        };
        let (asked, ()) = tokio::join!(ask, server.run(calls, stop.clone()));
        (shown, asked)
    }

    #[tokio::test]
    async fn an_answer_ends_with_the_document_that_has_no_more() {
        let (shown, asked) = answered(&[r#"{"ok":true,"more":true,"n":1}"#, r#"{"ok":true,"n":2}"#]).await;
        asked.unwrap();
        assert_eq!(shown.iter().map(|document| &document["n"]).collect::<Vec<_>>(), [1, 2]);
        let (_, asked) = answered(&[r#"{"ok":true,"more":true}"#]).await;
        assert_eq!(asked.unwrap_err().to_string(), "the bridge ended before its answer");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_in_its_words() {
        let (shown, asked) = answered(&[r#"{"ok":false,"code":"NOT_FOUND","detail":"nobody"}"#]).await;
        assert_eq!(asked.unwrap_err().to_string(), "NOT_FOUND: nobody");
        assert!(shown.is_empty());
    }

    #[tokio::test]
    async fn where_no_bridge_runs_the_error_says_so() {
        let error = ask(&of("/nowhere/s.db".into()), &json!({}), |_| Ok(())).await.unwrap_err();
        assert!(error.to_string().contains("no bridge runs with the store /nowhere/s.db"), "{error}");
        assert!(name("a/b").unwrap_err().to_string().contains("cannot be a user name"));
    }
}
