//! The databases' probes against servers that follow a script, some of them hostile. The real ones are
//! in tests/it/databases.rs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Failure, Network, Prober, Verdict, check, probe};
use crate::config::model::{
    BackendTls, HealthCheck, MysqlProbe, MysqlRole, PostgresProbe, PostgresRole, ProbeKind,
    Protocol, RedisProbe, RedisRole, Secret,
};
use crate::pool::BackendAddr;
use crate::tls::testing::{Authority, Folder, LONG};
use crate::tls::{certificates, client, provider};

#[derive(Clone)]
enum Act {
    /// Reads until this came.
    Hear(&'static [u8]),
    Say(Vec<u8>),
    /// The same piece for ever, or until nobody wants it.
    Flood(Vec<u8>),
    /// A byte now and then.
    Drip(Vec<u8>),
}

/// A server that follows the script and then keeps still; in pieces of so many bytes.
async fn server(script: Vec<Act>, piece: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a live socket");
            tokio::task::spawn_local(play(stream, script.clone(), piece));
        }
    });
    addr
}

async fn play(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Vec<Act>, piece: usize) {
    let mut heard = Vec::new();
    for act in script {
        match act {
            Act::Hear(text) => {
                while !heard.windows(text.len()).any(|window| window == text) {
                    if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                heard.clear();
            }
            Act::Say(text) => {
                for piece in text.chunks(piece) {
                    let _ = stream.write_all(piece).await;
                    let _ = stream.flush().await;
                    tokio::task::yield_now().await;
                }
            }
            Act::Flood(text) => while stream.write_all(&text).await.is_ok() {},
            Act::Drip(text) => {
                for byte in text {
                    let _ = stream.write_all(&[byte]).await;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        }
    }
    let _ = stream.read_to_end(&mut heard).await;
}

async fn told(kind: &ProbeKind, script: &[Act], piece: usize) -> String {
    let addr = server(script.to_vec(), piece).await;
    match probe(addr, kind.clone()).await {
        Verdict::Pass => "pass".into(),
        Verdict::WrongRole(is) => is.into(),
        Verdict::Fail(failure) => format!("{}: {failure}", failure.label()),
        Verdict::NotMade(error) => panic!("{error}"),
    }
}

/// Whole and byte by byte, the verdict must be the same, and begin like this.
async fn expect(kind: &ProbeKind, script: &[Act], expected: &str) {
    for piece in [usize::MAX, 1] {
        let told = told(kind, script, piece).await;
        assert!(told.starts_with(expected), "{told} instead of {expected}, pieces of {piece}");
    }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret(text.as_bytes().into()))
}

fn say(text: impl AsRef<[u8]>) -> Act {
    Act::Say(text.as_ref().to_vec())
}

fn redis(role: RedisRole) -> ProbeKind {
    ProbeKind::Redis(RedisProbe { user: None, password: None, role })
}

const PING: Act = Act::Hear(b"*1\r\n$4\r\nPING\r\n");
const MASTER: &str =
    "*3\r\n$6\r\nmaster\r\n:42\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$1\r\n0\r\n";

fn slave(state: &str) -> String {
    let length = state.len();
    format!("*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n${length}\r\n{state}\r\n:42\r\n")
}

#[tokio::test(flavor = "local")]
async fn redis_tells_its_role() {
    use RedisRole::{Any, Master, Replica};
    let connected = slave("connected");
    for (role, answer, expected) in [
        (Any, "", "pass"),
        (Master, MASTER, "pass"),
        (Replica, MASTER, "it is a master"),
        (Master, &connected, "it is a replica"),
        (Replica, &connected, "pass"),
        (
            Replica,
            &slave("sync"),
            "replication: it is a replica, but its link to the master is `sync`",
        ),
        (Master, "*2\r\n$8\r\nsentinel\r\n*0\r\n", "it is a sentinel"),
        (Master, "*1\r\n$5\r\nqueen\r\n", "protocol: "),
        (Master, "*1\r\n$-1\r\n", "protocol: "),
        (Master, ":1\r\n", "protocol: "),
        (Master, "\r\n", "protocol: "),
        (
            Master,
            "-NOPERM this user has no permissions\r\n",
            "server_error: the server answers with",
        ),
        (Master, "*3\r\n$4000000000\r\n", "protocol: its answer is longer"),
        (Master, "*3\r\n$99999999999\r\n", "protocol: "),
    ] {
        expect(&redis(role), &[PING, say("+PONG\r\n"), say(answer)], expected).await;
    }
}

#[tokio::test(flavor = "local")]
async fn redis_says_why_it_does_not_serve() {
    for (answer, expected) in [
        ("-LOADING Redis is loading the dataset in memory\r\n", "server_error: the server answers"),
        ("-MASTERDOWN Link with MASTER is down\r\n", "server_error: the server answers"),
        ("-ERR max number of clients reached\r\n", "server_error: the server answers"),
        ("-NOAUTH Authentication required.\r\n", "login: the probe cannot log in: NOAUTH"),
        ("-DENIED Redis is running in protected mode\r\n", "login: "),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "protocol: "),
        (
            "-evil\x1b[2J\u{202e}\rINFO all is well\r\n",
            "server_error: the server answers with an error: evil?[2J? INFO all is well",
        ),
    ] {
        expect(&redis(RedisRole::Master), &[PING, say(answer)], expected).await;
    }
}

#[tokio::test(flavor = "local")]
async fn redis_is_given_user_and_password() {
    let probe = |user: Option<&str>, password| {
        ProbeKind::Redis(RedisProbe {
            user: user.map(String::from),
            password,
            role: RedisRole::Any,
        })
    };
    let ok = say("+OK\r\n+PONG\r\n");
    let alone = Act::Hear(b"*2\r\n$4\r\nAUTH\r\n$3\r\na b\r\n*1\r\n$4\r\nPING\r\n");
    expect(&probe(None, secret("a b")), &[alone, ok.clone()], "pass").await;
    let both = Act::Hear(b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$3\r\na b\r\n*1\r\n$4\r\nPING\r\n");
    expect(&probe(Some("me"), secret("a b")), &[both, ok.clone()], "pass").await;
    let open = Act::Hear(b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n");
    expect(&probe(Some("me"), None), &[open, ok], "pass").await;
    for answer in [
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH no\r\n",
        "-ERR invalid password\r\n",
        "-ERR Client sent AUTH, but no password is set\r\n+PONG\r\n",
        "-ERR AUTH <password> called without any password configured\r\n+PONG\r\n",
    ] {
        expect(&probe(None, secret("x")), &[PING, say(answer)], "login: ").await;
    }
}

fn postgres(role: PostgresRole, password: Option<Secret>) -> ProbeKind {
    ProbeKind::Postgres(PostgresProbe { user: "me".into(), database: "db".into(), password, role })
}

fn message(kind: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', [&code.to_be_bytes(), rest].concat())
}

const HELLO: Act = Act::Hear(b"\0\x03\0\0user\0me\0database\0db\0");
const ASKED: Act = Act::Hear(b"SELECT pg_catalog.pg_is_in_recovery()\0");

/// Once somebody is in.
fn welcome() -> Act {
    let parts = [
        authentication(0, b""),
        message(b'S', "server_version\x0015.18\0"),
        message(b'N', "SNOTICE\0Mhear, hear\0\0"),
        message(b'K', [0; 8]),
        message(b'Z', "I"),
    ];
    Act::Say(parts.concat())
}

fn recovery(value: &[u8]) -> Act {
    let row = [&[0, 1, 0, 0, 0, value.len() as u8][..], value].concat();
    let parts = [
        message(b'T', "\0\x01pg_is_in_recovery\0and so on"),
        message(b'D', row),
        message(b'C', "SELECT 1\0"),
        message(b'Z', "I"),
    ];
    Act::Say(parts.concat())
}

#[tokio::test(flavor = "local")]
async fn postgres_tells_its_role_and_is_left_in_good_order() {
    use PostgresRole::{Any, Primary, Replica};
    for (role, value, expected) in [
        (Primary, "f", "pass"),
        (Replica, "t", "pass"),
        (Any, "t", "pass"),
        (Primary, "t", "it is a replica (in recovery)"),
        (Replica, "f", "it is a primary (not in recovery)"),
        (Any, "x", "protocol: "),
    ] {
        let script = [HELLO, welcome(), ASKED, recovery(value.as_bytes())];
        expect(&postgres(role, None), &script, expected).await;
    }
}

/// As PostgreSQL takes it from version 17 on (`sslnegotiation=direct`): TLS from the first byte, by ALPN.
#[tokio::test(flavor = "local")]
async fn postgres_within_tls_is_told_what_is_meant_by_alpn() {
    let (folder, authority) = (Folder::new(), Authority::new("a test's authority"));
    let certificate = folder.pair("db", &authority.issue(&["db.test"], 1, LONG));
    let ca = certificates::authorities(&folder.write("ca.pem", &authority.cert)).unwrap();
    let config = client::settings(Some(&ca), None, true, Protocol::Http1).unwrap();
    let tls = BackendTls { ca: Some(ca), server_name: None, client: None, verify: true, config };
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.certified.clone())));
    server.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let script = vec![HELLO, welcome(), ASKED, recovery(b"t")];
    let serving = tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.expect("a probe comes");
        let stream = acceptor.accept(stream).await.expect("it speaks TLS");
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        play(stream, script, usize::MAX).await;
        alpn
    });
    let kind = postgres(PostgresRole::Primary, None);
    let check = HealthCheck { tls: Some(tls), ..check(kind) };
    let name = ServerName::try_from("db.test").unwrap();
    let verdict = Network.probe(&check, BackendAddr(addr), Some(&name)).await;
    assert!(matches!(verdict, Verdict::WrongRole("it is a replica (in recovery)")), "{verdict:?}");
    assert_eq!(serving.await.unwrap().as_deref(), Some(&b"postgresql"[..]));
}

#[tokio::test(flavor = "local")]
async fn postgres_says_why_it_lets_nobody_in() {
    let md5 = || Act::Say(authentication(5, b"salt"));
    // Of user me, password x and this salt.
    let hash = Act::Hear(b"md5f7ea418b96800a79acb94a4521cf86a0\0");
    let sasl = |names: &[u8]| Act::Say(authentication(10, names));
    let error = |code: &str, text: &str| {
        Act::Say(message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0")))
    };
    let cases: Vec<(Option<Secret>, Vec<Act>, &str)> = vec![
        (
            None,
            vec![md5()],
            "login: the probe cannot log in: it asks for a password, and `password_file`",
        ),
        (
            secret("x"),
            vec![md5(), hash, error("28P01", "password authentication failed")],
            "login: the probe cannot log in: password authentication failed",
        ),
        (
            secret("x"),
            vec![Act::Say(authentication(3, b""))],
            "login: the probe cannot log in: it asks for the password in clear",
        ),
        (
            secret("x"),
            vec![Act::Say(authentication(7, b""))],
            "login: the probe cannot log in: it asks for a way",
        ),
        (
            secret("x"),
            vec![sasl(b"OAUTHBEARER\0\0")],
            "login: the probe cannot log in: it asks for a proof",
        ),
        (
            None,
            vec![error("28000", "no pg_hba.conf entry")],
            "login: the probe cannot log in: no pg_hba",
        ),
        (
            None,
            vec![error("57P03", "the database system is starting up")],
            "server_error: the server answers with an error: the database system is starting",
        ),
        (
            None,
            vec![error("53300", "sorry,\ntoo many\x1b[1m clients")],
            "server_error: the server answers with an error: sorry, too many?[1m clients",
        ),
        (None, vec![welcome(), ASKED, error("57P01", "terminating")], "server_error: "),
        (None, vec![Act::Say(message(b'E', "no fields at all"))], "server_error: "),
        (None, vec![Act::Say(message(b'E', ""))], "server_error: "),
        (
            None,
            vec![say("HTTP/1.1 400 Bad Request\r\n\r\n")],
            "protocol: its answer is not that of a PostgreSQL",
        ),
        (None, vec![say("R\0\0\0\x03")], "protocol: "),
        (None, vec![say("R\0\0\0\x06\0\0")], "protocol: "),
        (None, vec![Act::Say(authentication(11, b"r=x"))], "protocol: "),
        (secret("x"), vec![Act::Say(authentication(12, b"v=x"))], "protocol: "),
        (secret("x"), vec![Act::Say(authentication(5, b"sal"))], "protocol: "),
    ];
    for (password, script, expected) in cases {
        let script = [vec![HELLO], script].concat();
        expect(&postgres(PostgresRole::Primary, password), &script, expected).await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_server_cannot_make_the_probe_hash_for_ever() {
    let sasl = Act::Say(authentication(10, b"SCRAM-SHA-256\0\0"));
    let asked = Act::Hear(b"SCRAM-SHA-256\0");
    for first in ["r=other,s=c2FsdA==,i=4096", "r=,s=,i=4294967295", "e=no", "", "\u{fffd}"] {
        let script =
            [HELLO, sasl.clone(), asked.clone(), Act::Say(authentication(11, first.as_bytes()))];
        let kind = postgres(PostgresRole::Primary, secret("x"));
        expect(&kind, &script, "protocol: its part of SCRAM makes no sense").await;
    }
}

/// A server that plays its part of SCRAM without knowing the password, and then lets the probe in.
#[tokio::test(flavor = "local")]
async fn a_server_that_does_not_know_the_password_is_not_the_one_that_is_meant() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.expect("a probe");
        let mut heard = [0; 1024];
        let _ = stream.read(&mut heard).await.expect("its hello");
        let sasl = authentication(10, b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0");
        stream.write_all(&sasl).await.expect("it listens");
        let read = stream.read(&mut heard).await.expect("its nonce");
        let said = String::from_utf8_lossy(&heard[..read]).into_owned();
        let nonce = said.rsplit("r=").next().expect("a nonce");
        let first = format!("r={nonce}and+mine,s=c2FsdA==,i=4096");
        stream.write_all(&authentication(11, first.as_bytes())).await.expect("it listens");
        let _ = stream.read(&mut heard).await.expect("its proof");
        let proof = authentication(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let all = [proof, authentication(0, b""), message(b'Z', "I")].concat();
        let _ = stream.write_all(&all).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let verdict = probe(addr, postgres(PostgresRole::Any, secret("x"))).await;
    let Verdict::Fail(failure) = verdict else { panic!("{verdict:?}") };
    assert!(failure.to_string().contains("does not know the password"), "{failure}");
}

fn mysql(user: Option<&str>, password: Option<Secret>, role: MysqlRole) -> ProbeKind {
    ProbeKind::Mysql(MysqlProbe { user: user.map(String::from), password, role })
}

fn packet(sequence: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut packet = (body.len() as u32).to_le_bytes().to_vec();
    packet[3] = sequence;
    [&packet[..], body].concat()
}

fn greeting(plugin: &str) -> Act {
    let parts = [
        &b"\x0a8.0.99-test\0\x07\0\0\0challeng\0\xff\xff\x2d\x02\0\xff\xff\x15"[..],
        &[0; 10],
        b"e so long...\0",
        plugin.as_bytes(),
        b"\0",
    ];
    Act::Say(packet(0, parts.concat()))
}

fn denied(sequence: u8) -> Act {
    Act::Say(packet(sequence, b"\xff\x15\x04#28000Access denied for user"))
}

fn ok(sequence: u8) -> Act {
    Act::Say(packet(sequence, b"\0\0\0\x02\0\0\0"))
}

fn value(text: &str) -> Act {
    let row = [&[text.len() as u8][..], text.as_bytes()].concat();
    let parts = [
        packet(1, [1]),
        packet(2, "\x03def and so on"),
        packet(3, b"\xfe\0\0\x02\0"),
        packet(4, row),
        packet(5, b"\xfe\0\0\x02\0"),
    ];
    Act::Say(parts.concat())
}

const READ_ONLY: Act = Act::Hear(b"\x03SELECT @@global.read_only");

#[tokio::test(flavor = "local")]
async fn mysql_is_well_if_it_answers_and_tells_its_role_to_a_user() {
    use MysqlRole::{Any, ReadOnly, Writable};
    let nobody = || Act::Hear(b"evenkeel_probe\0\0mysql_native_password\0");
    let native = || greeting("mysql_native_password");
    expect(&mysql(None, None, Any), &[native(), nobody(), denied(2)], "pass").await;
    expect(&mysql(None, None, Any), &[native(), nobody(), ok(2)], "pass").await;
    let odd = || greeting("auth_gssapi_client");
    expect(&mysql(None, None, Any), &[odd(), nobody(), denied(2)], "pass").await;
    let full = Act::Say(packet(0, b"\xff\x10\x04Too many connections"));
    let full = [full];
    expect(
        &mysql(None, None, Any),
        &full,
        "server_error: the server answers with an error: Too many",
    )
    .await;
    for (role, answer, expected) in [
        (Writable, "0", "pass"),
        (Writable, "1", "its `read_only` is on"),
        (Writable, "OFF", "pass"),
        (Writable, "NO_LOCK", "its `read_only` is on"),
        (ReadOnly, "1", "pass"),
        (ReadOnly, "0", "its `read_only` is off"),
    ] {
        let script = [native(), Act::Hear(b"me\0\0"), ok(2), READ_ONLY, value(answer)];
        expect(&mysql(Some("me"), None, role), &script, expected).await;
    }
    let script = [native(), Act::Hear(b"me\0\0"), ok(2), READ_ONLY, say(packet(1, "\x02"))];
    expect(&mysql(Some("me"), None, Writable), &script, "protocol: ").await;
}

#[tokio::test(flavor = "local")]
async fn mysql_is_given_proofs_of_the_password() {
    // Of the password `secret` and the challenge `challenge so long...`, counted by other means.
    const BY_NATIVE: &[u8] = &[
        0x14, 0xcd, 0xa4, 0xe0, 0x1e, 0x84, 0x74, 0x7f, 0xb5, 0x43, 0xc7, 0x8d, 0xbc, 0x5e, 0x35,
        0x2a, 0x54, 0xe0, 0x9b, 0x99, 0xef,
    ];
    const BY_CACHING: &[u8] = &[
        0x20, 0x85, 0xd0, 0xb0, 0x53, 0x8e, 0x90, 0xae, 0x2d, 0xb0, 0x22, 0x4b, 0x5c, 0x42, 0xf5,
        0xd1, 0xd5, 0x47, 0x81, 0x65, 0x0f, 0xb7, 0x6c, 0x85, 0x38, 0x4b, 0xf0, 0xa5, 0x0f, 0x0b,
        0x36, 0x82, 0x8f,
    ];
    let native = || greeting("mysql_native_password");
    let caching = || greeting("caching_sha2_password");
    let me = || mysql(Some("me"), secret("secret"), MysqlRole::Any);
    let switch = |plugin: &str| {
        let body = [b"\xfe", plugin.as_bytes(), b"\0challenge so long...\0"].concat();
        Act::Say(packet(2, body))
    };
    expect(&me(), &[native(), Act::Hear(BY_NATIVE), ok(2)], "pass").await;
    let script = [caching(), Act::Hear(BY_CACHING), say(packet(2, [1, 3])), ok(3)];
    expect(&me(), &script, "pass").await;
    let script = [caching(), Act::Hear(BY_CACHING), switch("mysql_native_password")];
    let script = [&script[..], &[Act::Hear(&BY_NATIVE[1..]), ok(4)]].concat();
    expect(&me(), &script, "pass").await;
    let script = [native(), Act::Hear(BY_NATIVE), denied(2)];
    expect(&me(), &script, "login: the probe cannot log in: Access denied for user").await;
    // What probes cannot do is declined, so that the server can close in good order.
    let declined = Act::Hear(&[0, 0, 0, 3]);
    let script =
        [caching(), Act::Hear(BY_CACHING), say(packet(2, [1, 4])), declined.clone(), denied(4)];
    expect(&me(), &script, "login: the probe cannot log in: the password is not in").await;
    let script = [native(), Act::Hear(BY_NATIVE), switch("client_ed25519"), declined, denied(4)];
    expect(&me(), &script, "login: the probe cannot log in: probes do not have the way").await;
}

#[tokio::test(flavor = "local")]
async fn mysql_greetings_that_make_no_sense_are_refused() {
    for body in
        [&b""[..], b"\x09old", b"\x0a", b"\x0a8.0\0\x07\0\0\0challeng", b"\xff", b"\xff\x15"]
    {
        let script = [Act::Say(packet(0, body))];
        expect(&mysql(None, None, MysqlRole::Any), &script, "protocol: ").await;
    }
    let script = [say("SSH-2.0-OpenSSH_9.6\r\n"), Act::Flood(vec![b'x'; 4096])];
    expect(&mysql(None, None, MysqlRole::Any), &script, "protocol: its answer is longer").await;
}

fn one_of_each() -> [ProbeKind; 3] {
    [
        redis(RedisRole::Master),
        postgres(PostgresRole::Primary, secret("x")),
        mysql(Some("me"), secret("x"), MysqlRole::Writable),
    ]
}

#[tokio::test(flavor = "local")]
async fn silent_and_slow_servers_cost_no_more_than_the_timeout() {
    for kind in one_of_each() {
        for script in [vec![], vec![Act::Drip(b"R\0\0\0\x01+PONG.............".to_vec())]] {
            let began = Instant::now();
            let told = told(&kind, &script, 1).await;
            assert!(told.starts_with("timeout: ") || told.starts_with("protocol: "), "{told}");
            assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test(flavor = "local")]
async fn floods_end_the_probe_before_its_timeout() {
    let notice = message(b'N', vec![b'x'; 100]);
    let huge = [b"R\x40\0\0\0".to_vec(), vec![0; 4096]].concat();
    for (kind, flood) in [
        (redis(RedisRole::Master), vec![b'x'; 4096]),
        (redis(RedisRole::Master), b"\r\r\r".to_vec()),
        (postgres(PostgresRole::Primary, None), notice),
        (postgres(PostgresRole::Primary, None), huge),
        (mysql(None, None, MysqlRole::Any), vec![0x7f; 4096]),
        (mysql(None, None, MysqlRole::Any), vec![0; 4096]),
    ] {
        let began = Instant::now();
        let told = told(&kind, &[Act::Flood(flood)], usize::MAX).await;
        assert!(told.starts_with("protocol: "), "{told}");
        assert!(began.elapsed() < Duration::from_millis(290), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "local")]
async fn a_server_that_closes_or_answers_at_random_is_just_a_failure() {
    let seed = crate::health::seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..300 {
        for kind in one_of_each() {
            let mut noise: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
            // Now and then something that begins well.
            let mut begin = match rng.u8(..4) {
                0 => authentication(rng.u32(0..13), b"SCRAM-SHA-256\0\0"),
                1 => b"+OK\r\n+PONG\r\n*3\r\n$".to_vec(),
                2 => b"\x20\0\0\0\x0a8.0\0".to_vec(),
                _ => Vec::new(),
            };
            begin.append(&mut noise);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let addr = listener.local_addr().expect("it is bound");
            tokio::task::spawn_local(async move {
                if let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.write_all(&begin).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            });
            let verdict = probe(addr, kind.clone()).await;
            let failed =
                matches!(verdict, Verdict::Fail(ref failure) if *failure != Failure::Timeout);
            assert!(failed, "seed {seed}, round {round}, {kind:?}: {verdict:?}");
        }
    }
}
