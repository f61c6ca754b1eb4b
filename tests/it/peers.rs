//! Real programs on both sides: nginx and haproxy behind us and in front of us, and promtool on our
//! metrics.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{
    Backend, Child, Folder, Load, PATIENCE, Proxy, eventually, free_address, get, program, setup,
};

/// A server or a proxy of somebody else's, in one process, so that SIGKILL ends all of it.
pub struct Peer {
    pub address: SocketAddr,
    pub child: Child,
    pub folder: Folder,
    command: fn(&Folder) -> Command,
}

impl Peer {
    /// `text` is its configuration, with FOLDER for the folder where it stands.
    #[track_caller]
    pub fn start(
        name: &str,
        address: SocketAddr,
        text: &str,
        command: fn(&Folder) -> Command,
    ) -> Peer {
        Peer::start_with(name, address, text, &[], command)
    }

    /// The same with further files in the folder.
    #[track_caller]
    pub fn start_with(
        name: &str,
        address: SocketAddr,
        text: &str,
        files: &[(&str, &str)],
        command: fn(&Folder) -> Command,
    ) -> Peer {
        let folder = Folder::new();
        for (name, text) in files {
            folder.file(name, text);
        }
        folder.file("peer.conf", text.replace("FOLDER", &folder.path().to_string_lossy()));
        let child = Child::start(name, &mut command(&folder));
        let peer = Peer { address, child, folder, command };
        peer.wait_accepts();
        peer
    }

    #[track_caller]
    fn wait_accepts(&self) {
        eventually("it accepts", PATIENCE, || TcpStream::connect(self.address).is_ok());
    }

    #[track_caller]
    fn restart(&mut self) {
        self.child.kill();
        self.child = Child::start("it again", &mut (self.command)(&self.folder));
        self.wait_accepts();
    }
}

pub fn nginx(address: SocketAddr, upstreams: &str, server: &str) -> Peer {
    let text = format!(
        "daemon off; master_process off; pid FOLDER/pid; error_log FOLDER/error.log;
         events {{ worker_connections 200; }}
         http {{
             access_log off; client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2;
             fastcgi_temp_path FOLDER/3; uwsgi_temp_path FOLDER/4; scgi_temp_path FOLDER/5;
             {upstreams}
             server {{ listen {address}; {server} }}
         }}"
    );
    Peer::start("nginx", address, &text, nginx_command)
}

pub fn nginx_command(folder: &Folder) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-e").arg(folder.path().join("error.log"));
    command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("peer.conf"));
    command
}

pub fn haproxy_command(folder: &Folder) -> Command {
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(folder.path().join("peer.conf"));
    command
}

/// An nginx that answers GETs as a test backend does.
fn nginx_backend(name: &str) -> Peer {
    let body = r#"{"method":"$request_method","target":"$request_uri","body":""}"#;
    let server = format!(
        "keepalive_timeout 1s; keepalive_requests 20;
         location /healthz {{ return 200 'ok'; }}
         location / {{
             add_header x-backend {name}; add_header x-echo-id $http_x_id;
             default_type application/json; return 200 '{body}';
         }}"
    );
    nginx(free_address(), "", &server)
}

fn haproxy(address: SocketAddr, servers: &[SocketAddr]) -> Peer {
    let mut text = format!(
        "global
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 20s
  timeout server 20s
frontend f
  bind {address}
  default_backend b
backend b
  balance roundrobin
"
    );
    for (number, server) in servers.iter().enumerate() {
        text += &format!("  server s{number} {server}\n");
    }
    Peer::start("haproxy", address, &text, haproxy_command)
}

const CHECK: &str = "health_check: {http: {path: /healthz}, interval: 250ms, \
                     interval_unsettled: 100ms, timeout: 250ms, fall: 2, rise: 2}";

#[test]
fn nginx_behind_us_is_killed_and_nothing_is_lost() {
    if !program("nginx") {
        return;
    }
    let mut backends = ["a", "b", "c"].map(nginx_backend);
    let addresses = backends.iter().map(|backend| backend.address);
    let proxy = Proxy::start(setup().http("web", "web").pool("web", addresses, CHECK));
    let load = Load::on(proxy.address("web")).each(Duration::from_millis(30)).start();
    load.wait_answers(100);
    backends[1].child.kill();
    proxy.wait_serving("web", 2, PATIENCE);
    load.wait_answers(100);
    backends[1].restart();
    proxy.wait_serving("web", 3, PATIENCE);
    load.wait_answers(100);
    let report = load.stop();
    report.assert_flawless();
    assert!(["a", "b", "c"].iter().all(|name| report.from(name) > 20), "{:?}", report.by_backend);
}

#[test]
fn haproxy_behind_us() {
    if !program("haproxy") {
        return;
    }
    let backends = ["a", "b"].map(Backend::start);
    let peer = haproxy(free_address(), &[backends[0].address, backends[1].address]);
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [peer.address], CHECK));
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(150);
    load.stop().assert_flawless();
    let failures = proxy.metric("evenkeel_pool_failures_total", &[]);
    assert_eq!(failures, 0.0, "{}", proxy.scrape());
}

/// A peer in front of us keeps its connections while we lose a backend and reload.
fn in_front(peer: impl Fn(SocketAddr) -> Peer) {
    let mut backends = ["a", "b"].map(Backend::start);
    let config = setup().http("web", "web").pool("web", &backends, CHECK);
    let proxy = Proxy::start(&config);
    let peer = peer(proxy.address("web"));
    let load = Load::on(peer.address).start();
    load.wait_answers(60);
    assert!(proxy.reload(config.clone().set("shutdown_delay: 1s")));
    load.wait_answers(30);
    backends[0].kill();
    load.wait_answers(60);
    proxy.wait_serving("web", 1, PATIENCE);
    load.stop().assert_flawless();
    let load = Load::on(peer.address).only_posts().start();
    load.wait_answers(60);
    load.stop().assert_flawless();
}

#[test]
fn nginx_in_front_of_us() {
    if !program("nginx") {
        return;
    }
    in_front(|us| {
        let upstreams = format!("upstream us {{ server {us}; keepalive 8; }}");
        let server = "location / {
            proxy_pass http://us; proxy_http_version 1.1; proxy_set_header Connection '';
        }";
        nginx(free_address(), &upstreams, server)
    });
}

#[test]
fn haproxy_in_front_of_us() {
    if !program("haproxy") {
        return;
    }
    in_front(|us| haproxy(free_address(), &[us]));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !program("promtool") {
        return;
    }
    let (mut a, b) = (Backend::start("a"), Backend::doing("b", "tcp_echo"));
    let config = setup().http("web", "web").tcp("in", "tcp").pool("web", [&a], CHECK);
    let proxy = Proxy::start(config.pool("tcp", [&b], ""));
    let web = proxy.address("web");
    Load::on(web).half_posts().run(Duration::from_millis(300)).assert_flawless();
    drop(TcpStream::connect(proxy.address("in")));
    a.now("reset");
    assert_eq!(get(web, "/").expect("an answer").status, 502);
    a.kill();
    proxy.wait_serving("web", 0, PATIENCE);
    assert_eq!(get(web, "/").expect("an answer").status, 503);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut pipe = promtool.stdin.take().expect("it is piped");
    pipe.write_all(proxy.scrape().as_bytes()).expect("it reads");
    drop(pipe);
    let out = promtool.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success() && text.trim().is_empty(), "{text}");
}
