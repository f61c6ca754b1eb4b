//! The plainest round-robin proxy on Pingora: `pingora-peer LISTEN HEALTH_PATH BACKEND...`
//! One thread, kept-alive backend connections, a health check every two seconds, no log.

use std::{env, sync::Arc, time::Duration};

use pingora::lb::health_check::HttpHealthCheck;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Balancer(Arc<LoadBalancer<RoundRobin>>);

#[async_trait::async_trait]
impl ProxyHttp for Balancer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let backend = self.0.select(b"", 256).ok_or_else(|| Error::new_in(HTTPStatus(503)))?;
        Ok(Box::new(HttpPeer::new(backend, false, String::new())))
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, health_path, backends @ ..] = arguments.as_slice() else {
        panic!("usage: pingora-peer LISTEN HEALTH_PATH BACKEND...");
    };
    let conf =
        ServerConf { threads: 1, upstream_keepalive_pool_size: 10_000, ..Default::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut pool = LoadBalancer::try_from_iter(backends).expect("backends are addresses");
    let mut check = HttpHealthCheck::new("localhost", false);
    check.req.set_uri(health_path.parse().expect("a path"));
    pool.set_health_check(Box::new(check));
    pool.health_check_frequency = Some(Duration::from_secs(2));
    let checks = background_service("health", pool);

    let mut proxy = http_proxy_service(&server.configuration, Balancer(checks.task()));
    proxy.add_tcp(listen);
    server.add_service(proxy);
    server.add_service(checks);
    server.run_forever();
}
