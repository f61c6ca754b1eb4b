//! The admin server over real sockets, its metrics under promtool, and the cost of a large scrape.

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::collector::Place;
use super::{CONNECTIONS, Context, Ends, connection, serve, wire};
use crate::config::defaults;
use crate::config::model::{self, Config, Name};
use crate::health::task::standing::Standing;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::status::Status;
use crate::observe::cells::{ListenerState, attempt_failed};
use crate::observe::metrics;
use crate::outcome::Cause;
use crate::pool::{BackendAddr, BackendState, Member, Pool, PoolState, Reason};
use crate::route::{PoolId, Streams};
use crate::snapshot::{Listener, Snapshot, Work};
use crate::tls;
use crate::tls::testing::{Folder, Kind, LONG, signed_by_itself};

const WORKERS: usize = 2;
/// Nothing here takes so long; it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A snapshot with one TCP listener `front` and one pool `web`, generation 7.
pub(super) fn scene() -> SceneBuilder {
    SceneBuilder { requires: Vec::new(), backends: 1 }
}

pub(super) struct SceneBuilder {
    requires: Vec<Name>,
    backends: u32,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("tests use good names")
}

impl SceneBuilder {
    pub(super) fn requires(mut self, pools: &[&str]) -> SceneBuilder {
        self.requires = pools.iter().map(|pool| name(pool)).collect();
        self
    }

    /// Backends 10.0.0.0:80, 10.0.0.1:80, ...
    pub(super) fn backends(mut self, number: u32) -> SceneBuilder {
        self.backends = number;
        self
    }

    pub(super) fn build(self) -> Snapshot {
        let pool_config = pool_config(self.backends);
        let to_web = model::TcpAction::Pool(name("web"));
        let tcp_routes = vec![model::TcpRoute { sni: Vec::new(), action: to_web }];
        let streams = Streams::new(&tcp_routes, &|_| Some(PoolId(0))).unwrap();
        let listener_config = model::Listener {
            name: name("front"),
            bind: Vec::new(),
            mode: model::Mode::Tcp { routes: tcp_routes },
            tls: None,
            accept_proxy_protocol: None,
            trusted_proxies: Vec::new(),
            access: model::Access::default(),
            timeouts: defaults::TIMEOUTS,
            error_pages: model::ErrorPages::default(),
            rate_limit: None,
        };
        let config = Config {
            workers: Some(WORKERS),
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            admin: model::Admin {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                ready_requires: self.requires,
            },
            log: model::Log { level: model::LogLevel::Info, format: model::LogFormat::Text },
            limits: defaults::LIMITS,
            listeners: vec![listener_config.clone()],
            pools: vec![pool_config.clone()],
        };
        let member = |backend: &model::Backend| {
            let model::BackendHost::Addr(addr) = backend.address else { unreachable!() };
            let state = BackendState::new(name("web"), BackendAddr(addr), WORKERS);
            Member::new(Arc::new(state), backend.weight.into())
        };
        let members = pool_config.backends.iter().map(member).collect();
        let pool = Pool::new(pool_config, members, Arc::new(PoolState::new(WORKERS)));
        let listener = Listener {
            config: listener_config,
            work: Work::Tcp(streams),
            state: Arc::new(ListenerState::new(WORKERS)),
            rate_limit: None,
            tls: Some(Arc::new(some_tls())),
        };
        Snapshot {
            generation: 7,
            config: Arc::new(config),
            listeners: [Arc::new(listener)].into(),
            pools: [Arc::new(pool)].into(),
        }
    }
}

/// With one certificate, for `a.example`.
fn some_tls() -> tls::Server {
    let folder = Folder::new();
    let made = signed_by_itself(&["a.example"], Kind::Ecdsa, LONG);
    let config = model::ListenerTls {
        certificates: vec![folder.pair("a", &made)],
        named: 1,
        certificate_dir: None,
        strict_sni: false,
        min_version: model::TlsVersion::Tls12,
        client_auth: None,
        ticket_keys: None,
        alpn: Vec::new(),
        hsts: None,
        acme: None,
    };
    let kept = Arc::new(tls::server::Kept::new(Instant::now()));
    tls::Server::new(&name("front"), &config, kept).expect("a sound configuration")
}

fn pool_config(backends: u32) -> model::Pool {
    let backend = |number: u32| {
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
        let address = model::BackendHost::Addr(SocketAddr::new(ip.into(), 80));
        model::Backend { address, weight: 1, tier: 0, max_requests: None }
    };
    model::Pool {
        backends: (0..backends).map(backend).collect(),
        health_check: Some(model::HealthCheck {
            kind: model::ProbeKind::Tcp { send: None, expect: None },
            interval: defaults::PROBE_INTERVAL,
            interval_unsettled: defaults::PROBE_INTERVAL_UNSETTLED,
            timeout: defaults::PROBE_TIMEOUT,
            fall: defaults::PROBE_FALL,
            rise: defaults::PROBE_RISE,
            initial: model::Initial::Up,
            port: None,
            address: None,
            tls: None,
            introduce: None,
        }),
        ..defaults::pool(name("web"))
    }
}

fn context(snapshot: Snapshot) -> Rc<Context> {
    let status = Status::new(WORKERS, 1024);
    status.phase.send_replace(Phase::Running);
    let (current, standing) = (Arc::new(ArcSwap::from_pointee(snapshot)), Standing::alone());
    Rc::new(Context::new(current, Arc::new(status), standing))
}

/// Something of everything, so that no family stays empty.
fn count_something(snapshot: &Snapshot, status: &Status) {
    let listener = snapshot.listeners[0].state.cells.of(0);
    listener.connections.add(5);
    listener.requests.inc(200);
    snapshot.listeners[0].state.cells.of(1).connections.add(2);
    let pool = &snapshot.pools[0];
    let cells = pool.state.cells.of(1);
    cells.requests.inc(502);
    for (histogram, millis) in [(&cells.duration, 3), (&cells.connect, 1), (&cells.first_byte, 2)] {
        histogram.observe(Duration::from_millis(millis));
    }
    pool.state.cells.of(0).duration.observe(Duration::from_secs(90));
    cells.retries[Cause::Reset.index()].inc();
    let backend = &pool.members[0].state;
    attempt_failed(cells, backend.cells.of(1), Cause::Timeout);
    backend.cells.of(0).requests.inc(404);
    backend.probes.failed.add(3);
    backend.probes.failures[0].add(3);
    backend.probes.duration.observe(Duration::from_millis(1));
    backend.passive.ejections[1].inc();
    backend.passive.trials_failed.inc();
    backend.set(Reason::Down);
    status.limits.request_head.store(4, Relaxed);
    status.limits.open.store(3, Relaxed);
    status.reload().failed = 1;
    status.reload().error = Some("a \"bad\" file".to_owned());
}

fn exposition(context: &Context) -> String {
    let scene = context.scene();
    let mut text = String::new();
    let mut place = Place::default();
    while scene.write_part(&mut place, &mut text) {}
    text
}

#[test]
fn every_value_arrives_under_its_name() {
    let context = context(scene().backends(2).build());
    count_something(&context.current.load(), &context.status);
    let text = exposition(&context);
    let expected = [
        r#"evenkeel_listener_connections_total{listener="front"} 7"#,
        r#"evenkeel_listener_requests_total{listener="front",class="2xx"} 1"#,
        r#"evenkeel_listener_requests_total{listener="front",class="none"} 0"#,
        r#"evenkeel_listener_failures_total{listener="front",cause="denied"} 0"#,
        r#"evenkeel_pool_backends{pool="web"} 2"#,
        r#"evenkeel_pool_serving_backends{pool="web"} 1"#,
        r#"evenkeel_pool_backends_by_reason{pool="web",reason="down"} 1"#,
        r#"evenkeel_pool_backends_by_reason{pool="web",reason="unverified"} 0"#,
        r#"evenkeel_pool_requests_total{pool="web",class="5xx"} 1"#,
        r#"evenkeel_pool_request_duration_seconds_bucket{pool="web",le="0.0001"} 0"#,
        r#"evenkeel_pool_request_duration_seconds_bucket{pool="web",le="0.0025"} 0"#,
        r#"evenkeel_pool_request_duration_seconds_bucket{pool="web",le="0.005"} 1"#,
        r#"evenkeel_pool_request_duration_seconds_bucket{pool="web",le="60"} 1"#,
        r#"evenkeel_pool_request_duration_seconds_bucket{pool="web",le="+Inf"} 2"#,
        r#"evenkeel_pool_request_duration_seconds_sum{pool="web"} 90.003"#,
        r#"evenkeel_pool_request_duration_seconds_count{pool="web"} 2"#,
        r#"evenkeel_pool_failures_total{pool="web",cause="timeout"} 1"#,
        r#"evenkeel_pool_failures_total{pool="web",cause="garbage"} 0"#,
        r#"evenkeel_pool_retries_total{pool="web",cause="reset"} 1"#,
        r#"evenkeel_pool_retries_total{pool="web",cause="connect"} 0"#,
        r#"evenkeel_probe_duration_seconds_count{pool="web"} 1"#,
        r#"evenkeel_backend_serving{pool="web",backend="10.0.0.0:80"} 0"#,
        r#"evenkeel_backend_serving{pool="web",backend="10.0.0.1:80"} 1"#,
        r#"evenkeel_backend_reason{pool="web",backend="10.0.0.0:80",reason="down"} 1"#,
        r#"evenkeel_backend_requests_total{pool="web",backend="10.0.0.0:80",class="4xx"} 1"#,
        r#"evenkeel_backend_requests_total{pool="web",backend="10.0.0.1:80",class="5xx"} 0"#,
        r#"evenkeel_backend_failures_total{pool="web",backend="10.0.0.0:80",cause="timeout"} 1"#,
        r#"evenkeel_backend_probes_total{pool="web",backend="10.0.0.0:80",result="failed"} 3"#,
        r#"evenkeel_backend_ejections_total{pool="web",backend="10.0.0.0:80",cause="share"} 1"#,
        r#"evenkeel_backend_trials_total{pool="web",backend="10.0.0.0:80",result="failed"} 1"#,
        r#"evenkeel_backend_disagreement{pool="web",backend="10.0.0.0:80"} 0"#,
        r#"evenkeel_limit_hits_total{limit="request_head"} 4"#,
        r#"evenkeel_limit{limit="connections"} 100000"#,
        r#"evenkeel_limit{limit="open_files"} 1024"#,
        "evenkeel_open_connections 3",
        r#"evenkeel_config_reloads_total{result="success"} 1"#,
        r#"evenkeel_config_reloads_total{result="failure"} 1"#,
        "evenkeel_config_last_reload_successful 0",
        "evenkeel_config_generation 7",
        r#"evenkeel_certificate_reloads_total{result="failure"} 0"#,
        r#"evenkeel_phase{phase="running"} 1"#,
        r#"evenkeel_phase{phase="draining"} 0"#,
        "evenkeel_ready 1",
        "evenkeel_workers 2",
    ];
    let lines: Vec<&str> = text.lines().collect();
    let expiry = r#"evenkeel_certificate_expiry_seconds{listener="front",name="a.example"} "#;
    assert!(lines.iter().any(|line| line.starts_with(expiry)), "{text}");
    for line in expected {
        assert!(lines.contains(&line), "there is no line {line} in\n{text}");
    }
    let absent = [
        r#"evenkeel_backend_reason{pool="web",backend="10.0.0.1:80""#,
        r#"evenkeel_backend_failures_total{pool="web",backend="10.0.0.1:80""#,
        r#"class="4xx",backend="10.0.0.1:80""#,
        r#"evenkeel_pool_failures_total{pool="web",cause="denied""#,
        r#"evenkeel_limit{limit="request_body""#,
    ];
    for start in absent {
        assert!(!text.contains(start), "{start} says nothing and should be left out");
    }
    for metric in metrics::ALL {
        let header = format!("# TYPE {} {}\n", metric.name, metric.kind.label());
        assert_eq!(text.matches(&header).count(), 1, "{header}");
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    let context = context(scene().backends(3).build());
    count_something(&context.current.load(), &context.status);
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("EVENKEEL_TEST_REQUIRE").is_ok_and(|what| what == "all");
            assert!(!required, "promtool (Debian package prometheus) is required: {error}");
            eprintln!("skipped: promtool (Debian package prometheus) is not here: {error}");
            return;
        }
    };
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(exposition(&context).as_bytes()).expect("promtool reads its input");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends with its input");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Run it with `--release -- --nocapture` for the numbers in docs/metrics.md.
#[test]
fn a_scrape_of_ten_thousand_backends_can_be_afforded() {
    let context = context(scene().backends(10_000).build());
    measure("quiet", &context);
    count_something(&context.current.load(), &context.status);
    for member in &context.current.load().pools[0].members {
        for class in [200, 301, 404, 502] {
            member.state.cells.of(0).requests.inc(class);
        }
        member.state.cells.of(1).failures[Cause::Reset.index()].inc();
        member.state.set(Reason::Down);
    }
    measure("all down", &context);
}

fn measure(what: &str, context: &Context) {
    let begun = Instant::now();
    let scene = context.scene();
    let (mut bytes, mut series, mut longest) = (0, 0, Duration::ZERO);
    let mut place = Place::default();
    loop {
        let begun = Instant::now();
        let mut text = String::new();
        if !scene.write_part(&mut place, &mut text) {
            break;
        }
        longest = longest.max(begun.elapsed());
        bytes += text.len();
        series += text.lines().filter(|line| !line.starts_with('#')).count();
    }
    let took = begun.elapsed();
    println!(
        "10,000 backends, {what}: {series} series, {bytes} bytes, {took:?} in all, \
         {longest:?} for the longest part"
    );
    assert!(series < 18 * 10_000, "{series} series");
    assert!(bytes < 16_000_000, "{bytes} bytes");
    // A debug build on a busy machine takes many times what is meant for a release build.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Runs on the kind of runtime that the control thread has.
fn on_control_thread<T>(paused: bool, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build_local(Default::default())
        .expect("a runtime needs a few file descriptors");
    runtime.block_on(async {
        if paused { test.await } else { timeout(PATIENCE, test).await.expect("it hangs") }
    })
}

/// A server on a free port, with the pool `web` required for readiness.
async fn server(backends: u32) -> (SocketAddr, Rc<Context>) {
    let context = context(scene().requires(&["web"]).backends(backends).build());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(serve(listener, context.clone()));
    (address, context)
}

/// Sends `request` as it is and returns everything up to the end of the connection.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is text");
    answer
}

async fn get(address: SocketAddr, method: &str, target: &str) -> String {
    exchange(
        address,
        &format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

fn status_of(answer: &str) -> &str {
    answer.get(9..12).unwrap_or_default()
}

#[test]
fn each_path_has_its_answer() {
    on_control_thread(false, async {
        let (address, context) = server(2).await;
        let cases = [
            ("GET", "/healthz", "200", "\r\n\r\nok\n"),
            ("HEAD", "/healthz", "200", "\r\n\r\n"),
            ("GET", "/readyz", "200", "\r\n\r\nready\n"),
            ("GET", "/readyz?verbose", "200", "10.0.0.1:80 serving\n"),
            ("GET", "/readyz?a=b&verbose=1", "200", "10.0.0.1:80 serving\n"),
            ("HEAD", "/readyz?verbose", "200", "\r\n\r\n"),
            ("HEAD", "/metrics", "200", "\r\n\r\n"),
            ("GET", "/", "404", "or /readyz?verbose\n"),
            ("GET", "/metrics/", "404", "or /readyz?verbose\n"),
            ("POST", "/healthz", "405", "only GET and HEAD\n"),
            ("DELETE", "/metrics", "405", "only GET and HEAD\n"),
        ];
        for (method, target, status, end) in cases {
            let answer = get(address, method, target).await;
            assert_eq!(status_of(&answer), status, "{method} {target}: {answer}");
            assert!(answer.ends_with(end), "{method} {target}: {answer}");
            assert_eq!(answer.contains("allow: GET, HEAD"), status == "405", "{answer}");
        }
        for member in &context.current.load().pools[0].members {
            member.state.set(Reason::Down);
        }
        let answer = get(address, "GET", "/readyz").await;
        assert_eq!(status_of(&answer), "503");
        assert!(answer.ends_with("not ready\npool web has no serving backend\n"), "{answer}");
        assert_eq!(status_of(&get(address, "GET", "/healthz").await), "200");
        context.current.load().pools[0].members[0].state.clear(Reason::Down);
        assert_eq!(status_of(&get(address, "GET", "/readyz").await), "200");
        context.status.phase.send_replace(Phase::Leaving);
        assert_eq!(status_of(&get(address, "GET", "/readyz").await), "503");
    });
}

#[test]
fn metrics_come_whole_and_in_order_and_the_next_scrape_tells_the_time_of_this() {
    on_control_thread(false, async {
        let (address, _) = server(3000).await;
        let request = "GET /metrics HTTP/1.0\r\n\r\n";
        let answer = exchange(address, request).await;
        assert_eq!(status_of(&answer), "200");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{}", &answer[..300]);
        let names: Vec<&str> = answer
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        // Families without a series are left out: nothing failed, and no reason is set.
        let expected: Vec<&str> = metrics::ALL
            .iter()
            .map(|metric| metric.name)
            .filter(|name| {
                let absent = [
                    "backend_reason",
                    "backend_failures_total",
                    "backend_probe_failures_total",
                    "backend_ejections_total",
                    "backend_trials_total",
                ];
                !absent.iter().any(|absent| *name == format!("evenkeel_{absent}"))
            })
            .collect();
        assert_eq!(names, expected);
        let weights = answer.lines().filter(|line| line.starts_with("evenkeel_backend_weight{"));
        assert_eq!(weights.count(), 3000);
        let took = "evenkeel_admin_scrape_duration_seconds ";
        let took_of = |answer: &str| -> f64 {
            let line = answer.lines().find_map(|line| line.strip_prefix(took));
            line.and_then(|value| value.parse().ok()).expect("the line is there")
        };
        assert_eq!(took_of(&answer), 0.0);
        assert!(took_of(&exchange(address, request).await) > 0.0);
    });
}

#[test]
fn a_connection_is_kept_for_several_requests() {
    on_control_thread(false, async {
        let (address, _) = server(1).await;
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let last = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = exchange(address, &[request, request, last].concat()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
        assert!(answer.ends_with("ready\n"), "{answer}");
    });
}

#[test]
fn bodies_and_bad_requests_are_refused() {
    on_control_thread(false, async {
        let (address, _) = server(1).await;
        let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(20_000));
        let cases = [
            ("POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", "413"),
            ("GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n", "413"),
            ("GET /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", "413"),
            ("nonsense\r\n\r\n", "400"),
            (long.as_str(), "431"),
        ];
        for (request, status) in cases {
            let answer = exchange(address, request).await;
            let start = &request[..request.len().min(80)];
            assert_eq!(status_of(&answer), status, "{start:?}: {answer}");
        }
    });
}

#[test]
fn more_connections_than_places_wait() {
    on_control_thread(false, async {
        let (address, _) = server(1).await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("the server accepts");
            // Only an answer proves that it was accepted, and not merely queued by the kernel.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it reads");
            let mut answer = [0; 15];
            stream.read_exact(&mut answer).await.expect("it answers");
            held.push(stream);
        }
        let mut waiting = std::pin::pin!(get(address, "GET", "/healthz"));
        let early = timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "one more than {CONNECTIONS} was answered: {early:?}");
        held.pop();
        assert_eq!(status_of(&waiting.await), "200");
    });
}

/// The client's end of a pipe to a connection that holds `bytes` each way.
fn piped(bytes: usize) -> DuplexStream {
    let context = context(scene().backends(1000).build());
    let (client, server) = tokio::io::duplex(bytes);
    let here = SocketAddr::from(([127, 0, 0, 1], 9901));
    let ends = Ends { peer: here, local: here };
    tokio::task::spawn_local(async move { connection(server, ends, &context).await });
    client
}

/// Sends `request`, then a byte every half second if it is to `drip`, until the server closes;
/// returns how long that took, by the paused clock.
async fn lifetime(request: &str, drip: bool) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut client = piped(64 * 1024);
    client.write_all(request.as_bytes()).await.expect("the pipe is large enough");
    let mut clock = tokio::time::interval(Duration::from_millis(500));
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            read = client.read(&mut answer) => {
                if matches!(read, Ok(0) | Err(_)) {
                    return begun.elapsed();
                }
            }
            _ = clock.tick(), if drip => {
                // It fails once the server has closed; the read then says so.
                let _ = client.write_all(b"x").await;
            }
        }
    }
}

#[test]
fn slow_heads_and_idle_connections_are_cut() {
    on_control_thread(true, async {
        let whole = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let second = format!("{whole}GET /healthz HTTP/1.1\r\nx: ");
        let cases = [
            ("", false, wire::IDLE),
            ("GET /healthz HTTP/1.1\r\nx: ", false, wire::HEAD),
            ("GET /healthz HTTP/1.1\r\nx: ", true, wire::HEAD),
            (whole, false, wire::IDLE),
            (whole, true, wire::HEAD),
            (second.as_str(), true, wire::HEAD),
        ];
        for (request, drip, expected) in cases {
            let lived = lifetime(request, drip).await;
            let late = expected + Duration::from_secs(1);
            assert!(lived >= expected && lived < late, "{request:?} {drip} lived for {lived:?}");
        }
    });
}

#[test]
fn who_does_not_take_an_answer_is_cut() {
    on_control_thread(true, async {
        let mut client = piped(1024);
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(request).await.expect("the pipe is large enough");
        tokio::time::sleep(wire::IDLE + Duration::from_secs(1)).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("what was in the pipe comes out");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        assert_eq!(answer.len(), 1024, "it stopped sending");
    });
}
