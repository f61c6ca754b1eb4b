//! Who is answered, and with what; that orders are carried out is for `tests/it/operate.rs`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::*;
use crate::admin::tests::scene;
use crate::health::task::standing::Standing;
use crate::lifecycle::status::Status;
use crate::pool::Reason;

const LOCAL: &str = "127.0.0.1:9901";

struct Asked<'a> {
    peer: &'a str,
    local: &'a str,
    host: &'a str,
}

const HERE: Asked<'_> = Asked { peer: "127.0.0.1:50000", local: LOCAL, host: "localhost:9901" };

/// A pool `web` with three backends 10.0.0.0:80 and on, which the door knows.
fn context() -> Context {
    let snapshot = scene().backends(3).build();
    let standing = Standing::alone();
    standing.apply(&snapshot.pools);
    Context::new(Arc::new(ArcSwap::from_pointee(snapshot)), Arc::new(Status::new(1, 0)), standing)
}

async fn ask(
    context: &Context,
    asked: &Asked<'_>,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path).header(HOST, asked.host);
    if !kind.is_empty() {
        request = request.header(CONTENT_TYPE, kind);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let ends = Ends { peer: asked.peer.parse().unwrap(), local: asked.local.parse().unwrap() };
    let answer = answer(request, ends, context).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON, always"))
}

const JSON: &str = "application/json; charset=utf-8";

#[tokio::test(flavor = "local")]
async fn only_this_machine_is_answered_and_only_by_its_own_names() {
    let context = context();
    let cases = [
        (HERE, 200),
        (Asked { host: "127.0.0.1:9901", ..HERE }, 200),
        (Asked { host: "LOCALHOST", ..HERE }, 200),
        (Asked { peer: "[::1]:7", host: "[::1]:9901", ..HERE }, 200),
        (Asked { peer: "[::ffff:127.0.0.1]:7", ..HERE }, 200),
        (Asked { local: "10.0.0.5:9901", host: "10.0.0.5:9901", ..HERE }, 200),
        (Asked { host: "10.0.0.6:9901", ..HERE }, 403),
        (Asked { host: "evil.example:9901", ..HERE }, 403),
        (Asked { host: "localhost.evil.example", ..HERE }, 403),
        (Asked { host: "", ..HERE }, 403),
        (Asked { peer: "10.0.0.9:7", ..HERE }, 403),
        (Asked { peer: "[fd00::1]:7", ..HERE }, 403),
    ];
    for (asked, expected) in cases {
        for (method, path) in [("GET", "/api/v1/pools"), ("POST", "/api/v1/pools/web/failback")] {
            let (status, body) = ask(&context, &asked, method, path, JSON, "").await;
            let refused = status == 403;
            assert_eq!(refused, expected == 403, "{} {} {body}", asked.peer, asked.host);
            assert_eq!(
                refused,
                body["error"].as_str().is_some_and(|e| e.contains("machine") || e.contains("Host")),
                "{body}"
            );
        }
    }
}

#[tokio::test(flavor = "local")]
async fn what_comes_through_a_proxy_is_refused() {
    let context = context();
    for name in ["X-Forwarded-For", "Forwarded"] {
        let request = Request::get("/api/v1/pools").header(HOST, "localhost").header(name, "x");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let here = LOCAL.parse().unwrap();
        let answer = answer(request, Ends { peer: here, local: here }, &context).await;
        assert_eq!(answer.status(), 403, "{name}");
    }
}

#[tokio::test(flavor = "local")]
async fn what_is_wrong_with_an_order_is_said() {
    let context = context();
    let backend = "/api/v1/pools/web/backends/10.0.0.0:80/drain";
    for (method, path, kind, body, expected, text) in [
        ("GET", "/api/v1/", "", "", 404, "not here"),
        ("GET", "/api/v1/pools/shop", "", "", 404, "there is no pool \"shop\""),
        ("POST", "/api/v1/pools", JSON, "", 405, "only GET, HEAD"),
        ("GET", "/api/v1/pools/web/failback", "", "", 405, "only POST"),
        ("POST", "/api/v1/pools/web/failback", "", "", 415, "Content-Type: application/json"),
        ("POST", "/api/v1/pools/web/failback", "text/plain", "{}", 415, "application/json"),
        ("POST", "/api/v1/pools/web/failback", JSON, "{\"x\": 1}", 400, "unknown field `x`"),
        ("POST", "/api/v1/pools/web/switchover", JSON, "{\"tier\": \"a\"}", 400, "invalid type"),
        ("POST", "/api/v1/pools/web/switchover", JSON, "{\"tier\": 4}", 404, "no such tier"),
        ("POST", "/api/v1/pools/web/switchover", JSON, "{\"tier\": 0}", 409, "in use already"),
        ("POST", backend, JSON, "{\"deadline\": \"30\"}", 400, "deadline: not a duration"),
        ("POST", backend, JSON, "{\"deadline\": \"0s\"}", 400, "deadline: must be above 0"),
        ("POST", "/api/v1/pools/web/backends/10.9.9.9:80/drain", JSON, "", 404, "no backend"),
        ("POST", "/api/v1/pools/web/backends/10.0.0.0:80/kill", JSON, "", 404, "not here"),
    ] {
        let (status, answer) = ask(&context, &HERE, method, path, kind, body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == expected && error.contains(text), "{path} {body}: {status} {answer}");
    }
    let (_, answer) = ask(&context, &HERE, "GET", "/api/v1/pools/shop", "", "").await;
    assert_eq!(answer["known"], serde_json::json!(["web"]));
    let long = "x".repeat(BODY_BYTES + 1);
    let (status, _) = ask(&context, &HERE, "POST", backend, JSON, &long).await;
    assert_eq!(status, 413);
}

#[tokio::test(flavor = "local")]
async fn orders_are_carried_out_and_told() {
    let context = context();
    let snapshot = context.current.load_full();
    let state = &snapshot.pools[0].members[1].state;
    let at = |word: &str| format!("/api/v1/pools/web/backends/10.0.0.1%3A80/{word}");
    for (word, done, message, reason) in [
        (
            "drain",
            "changed",
            "web/10.0.0.1:80 is draining; 0 in progress there",
            Some(Reason::Draining),
        ),
        ("drain", "unchanged", "is draining already", Some(Reason::Draining)),
        ("disable", "changed", "is disabled", Some(Reason::Disabled)),
        ("enable", "changed", "is enabled", None),
    ] {
        let (status, answer) = ask(&context, &HERE, "POST", &at(word), JSON, "{}").await;
        assert_eq!((status, &answer["done"]), (200, &done.into()), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
        assert!(state.reasons().eq(reason), "{word}");
        let backend = &answer["pool"]["tiers"][0]["backends"][1];
        assert_eq!(backend["serving"], reason.is_none());
    }
    state.set(Reason::Down);
    let (_, answer) = ask(&context, &HERE, "POST", &at("enable"), JSON, "").await;
    assert!(answer["message"].as_str().unwrap().contains("enabled already, but down"), "{answer}");
    let (_, pools) = ask(&context, &HERE, "GET", "/api/v1/pools", "", "").await;
    let tier = &pools["pools"][0]["tiers"][0];
    assert_eq!((&tier["weight"], &tier["serving_weight"]), (&3.into(), &2.into()));
    assert_eq!((&tier["active"], &tier["share"]), (&true.into(), &1.0.into()));
    assert_eq!(tier["backends"][1]["reasons"], serde_json::json!(["down"]));
    assert!(tier["backends"][1]["ejected"].is_null());
    state.set(Reason::Ejected);
    state.passive.until_millis.set(1_000);
    let (_, pool) = ask(&context, &HERE, "GET", "/api/v1/pools/web", "", "").await;
    let ejected = &pool["tiers"][0]["backends"][1]["ejected"];
    assert_eq!(
        (ejected["until_unix_ms"].as_u64(), ejected["cause"].is_string()),
        (Some(1_000), true)
    );
}
