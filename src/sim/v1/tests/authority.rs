//! Access tokens: how they are bought, and what they are worth.

use super::*;
use crate::ops::clock;
use crate::sim::v1::V1Faults;
use crate::sim::v1::fault::{AuthorityFault, Shape};
use crate::sim::v1::handle::Grant;

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// What a service account sends for a token.
fn form(running: &Running, scope: &str) -> String {
    let credentials: Value = serde_json::from_str(running.v1.credentials()).unwrap();
    let now = clock::now_ms() / 1_000;
    let claims = json!({
        "iss": credentials["client_email"], "aud": credentials["token_uri"], "scope": scope, "iat": now, "exp": now + 3_600,
    });
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": credentials["private_key_id"]});
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
        .append_pair("assertion", &assertion(running.v1.credentials(), &header, &claims))
        .finish()
}

async fn buy(running: &Running, form: &str) -> (u16, Value) {
    let more = "Content-Type: application/x-www-form-urlencoded\r\n";
    let (status, _, body) = running.http(&running.authority(), "POST", "/token", more, form).await;
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn a_signed_assertion_buys_a_token_that_takes_a_message() {
    let running = start(V1Config::default()).await;
    let (status, sold) = buy(&running, &form(&running, SCOPE)).await;
    assert_eq!((status, &sold["expires_in"], &sold["token_type"]), (200, &json!(3_599), &json!("Bearer")));
    let mut client = running.client().await;
    client.access = sold["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.push("device").await.unwrap().status, 200);
    let tokens = running.v1.tokens();
    assert_eq!((tokens[0].grant, tokens[0].used), (Grant::Messages, 1));
    let text = std::fs::read_to_string(running.v1.credentials_file().unwrap()).unwrap();
    assert_eq!(text, running.v1.credentials());
    running.stop().await;
}

#[tokio::test]
async fn tokens_are_sold_over_tls_too() {
    let any = "0.0.0.0:0".parse().unwrap();
    let running = start(V1Config { authority: any, ..V1Config::default() }).await;
    let url = url::Url::parse(running.v1.token_url()).unwrap();
    assert_eq!((url.scheme(), url.path()), ("https", "/token"));
    let address = format!("127.0.0.1:{}", url.port().unwrap());
    let mut stream = running.tls_at(&address, &[b"http/1.1"]).await.unwrap();
    let form = form(&running, SCOPE);
    let length = form.len();
    let request =
        format!("POST /token HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{form}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("access_token"), "{answer}");
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_clock_and_an_unknown_account_are_told_as_google_tells_them() {
    let running = start(V1Config::default()).await;
    for (faults, status, word) in [
        (V1Faults { clock_skew_s: 7_200, ..V1Faults::default() }, 400, "invalid_grant"),
        (V1Faults { clock_skew_s: -7_200, ..V1Faults::default() }, 400, "invalid_grant"),
        (V1Faults { authority: Some(AuthorityFault::InvalidGrant), ..V1Faults::default() }, 400, "invalid_grant"),
        (V1Faults { authority: Some(AuthorityFault::Unavailable), ..V1Faults::default() }, 503, "backend_error"),
    ] {
        running.v1.set_faults(faults).unwrap();
        let (seen, body) = buy(&running, &form(&running, SCOPE)).await;
        assert_eq!((seen, &body["error"]), (status, &json!(word)));
    }
    assert_eq!(running.v1.stats().token_refusals, [("invalid_grant", 3), ("backend_error", 1)].into());
    running.v1.set_faults(V1Faults::default()).unwrap();
    assert_eq!(buy(&running, "grant_type=password").await.1["error"], json!("unsupported_grant_type"));
    running.stop().await;
}

#[tokio::test]
async fn the_metadata_server_wants_its_header() {
    let running = start(V1Config { project: "my-project".into(), ..V1Config::default() }).await;
    let base = "/computeMetadata/v1";
    for path in ["/instance/service-accounts/default/token", "/project/project-id"] {
        let path = format!("{base}{path}");
        assert_eq!(running.http(&running.authority(), "GET", &path, "", "").await.0, 403);
        let (status, head, _) =
            running.http(&running.authority(), "GET", &path, "Metadata-Flavor: Google\r\n", "").await;
        assert!(status == 200 && head.contains("metadata-flavor: google"), "{head}");
    }
    let project = format!("{base}/project/project-id");
    let answer = running.http(&running.authority(), "GET", &project, "Metadata-Flavor: Google\r\n", "").await;
    assert_eq!(answer.2, "my-project");
    running.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_good_any_more_is_refused_in_both_shapes() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    assert_eq!(client.push("device").await.unwrap().status, 200);
    assert_eq!(running.v1.revoke_tokens(), 1);
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, &heard.json()["error"]["status"]), (401, &json!("UNAUTHENTICATED")));
    running.v1.set_faults(V1Faults { unauthorized: Shape::Page, ..V1Faults::default() }).unwrap();
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, &*heard.content_type), (401, "text/html; charset=UTF-8"));
    assert!(heard.text().starts_with("<HTML>"), "{}", heard.text());
    client.access = running.access().await;
    assert_eq!(client.push("device").await.unwrap().status, 200);
    running.stop().await;
}

#[tokio::test]
async fn a_token_for_something_else_and_another_project_are_refused() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    let good = client.access.clone();
    let (_, sold) = buy(&running, &form(&running, "https://www.googleapis.com/auth/drive")).await;
    client.access = sold["access_token"].as_str().unwrap().to_owned();
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, &heard.json()["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
    client.access = good;
    client.path = "/v1/projects/other/messages:send".to_owned();
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, heard.json()["error"].get("details")), (404, None));
    client.path = "/v2/nothing".to_owned();
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, &*heard.content_type), (404, "text/html; charset=UTF-8"));
    running.stop().await;
}
