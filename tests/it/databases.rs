//! Databases that change their roles: real servers of PostgreSQL, Redis and MariaDB, found by what they
//! are, and written to by clients that keep a ledger while they fail over.
//!
//! What was acknowledged is there afterwards, and nobody wrote to two servers at a time.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::harness::databases::{self, Postgres, Server};
use crate::harness::sql::{
    Postgresql, Redis, Writers, assert_all_there, assert_one_after_the_other,
};
use crate::harness::{
    Authority, Folder, PATIENCE, Proxy, Signal, eventually, free_address, program, setup,
};

const RHYTHM: &str = "interval: 200ms, interval_unsettled: 100ms, timeout: 1s, fall: 2, rise: 2";

/// What a server's log says of clients that do not take their leave.
const ILL_MANNERED: [&str; 5] = [
    "unexpected EOF",
    "incomplete startup packet",
    "could not receive data",
    "could not send data",
    "Aborted connection",
];

/// Beside the configuration, since it is read from there.
fn secrets() -> Folder {
    let folder = Folder::new();
    for (name, text) in [("right", "correct-horse\n"), ("wrong", "battery-staple\n")] {
        let file = folder.file(name, text);
        std::fs::set_permissions(file, Permissions::from_mode(0o600)).expect("our own file");
    }
    folder
}

fn check(probe: &str) -> String {
    format!("health_check: {{{probe}, {RHYTHM}}}")
}

/// Which of two servers serves in a pool.
fn serving(proxy: &Proxy, pool: &str, servers: &[&Server]) -> Vec<bool> {
    let is = |server: &&Server| {
        let address = server.address.to_string();
        let labels = [("pool", pool), ("backend", address.as_str())];
        proxy.metric("evenkeel_backend_serving", &labels) == 1.0
    };
    servers.iter().map(is).collect()
}

#[track_caller]
fn wait_serving(proxy: &Proxy, pool: &str, servers: &[&Server], expected: &[bool]) -> Duration {
    eventually(&format!("{expected:?} of {pool} serve"), PATIENCE, || {
        serving(proxy, pool, servers) == expected
    })
}

/// Why a backend of this pool went down, as the log says it.
#[track_caller]
fn wait_reason(proxy: &Proxy, pool: &str, words: &str) {
    let mut reasons = Vec::new();
    let said = |reasons: &mut Vec<String>| {
        let events = proxy.events_saying("backend is down");
        let of_pool = events.iter().filter(|event| event["pool"] == pool);
        *reasons = of_pool.map(|event| event["reason"].to_string()).collect();
        reasons.iter().any(|reason| reason.contains(words))
    };
    let began = Instant::now();
    while !said(&mut reasons) {
        assert!(began.elapsed() < PATIENCE, "{pool}: no {words:?} in {reasons:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tell_redis(server: &Server, commands: &[&str]) -> Vec<String> {
    let mut session = Redis::connect(server.address).expect("a server that runs");
    session.ask(commands).unwrap_or_else(|why| panic!("{commands:?}: {why}"))
}

fn tell_postgres(server: &Server, query: &str) -> Vec<String> {
    let mut session = Postgresql::connect(server.address, "postgres").expect("a server that runs");
    session.ask(query).unwrap_or_else(|why| panic!("{query}: {why}"))
}

/// A master, and a replica that has caught up.
fn redis_pair(options: &str) -> Option<(Server, Server)> {
    let a = databases::redis(options)?;
    let (ip, port) = (a.ip(), a.address.port());
    let b = databases::redis(&format!("{options} --replicaof {ip} {port}"))?;
    Some((a, b))
}

fn wait_replica(replica: &Server) {
    eventually("the replica follows", PATIENCE, || {
        tell_redis(replica, &["ROLE"])[0].contains("connected")
    });
}

#[test]
fn redis_is_found_by_its_role_and_says_why_it_lets_nobody_in() {
    let Some((a, b)) = redis_pair("") else { return };
    let Some(guarded) = databases::redis("--requirepass correct-horse") else { return };
    let mut config = setup().tcp("db", "masters");
    config = config.pool("masters", [&a, &b], &check("redis: {role: master}"));
    config = config.pool("replicas", [&a, &b], &check("redis: {role: replica}"));
    config = config.pool("any", [&a, &b], &check("redis: {}"));
    config = config.pool("locked", [&guarded], &check("redis: {role: master}"));
    config =
        config.pool("wrong", [&guarded], &check("redis: {role: master, password_file: wrong}"));
    let right = "redis: {role: master, password_file: right}";
    config = config.pool("right", [&guarded], &check(right));
    let named = "redis: {user: default, role: master, password_file: right}";
    config = config.pool("named", [&guarded], &check(named));
    config = config.pool("open", [&a], &check("redis: {password_file: right}"));
    wait_replica(&b);
    let proxy = Proxy::start_beside(secrets(), &config);
    wait_serving(&proxy, "masters", &[&a, &b], &[true, false]);
    wait_serving(&proxy, "replicas", &[&a, &b], &[false, true]);
    wait_serving(&proxy, "any", &[&a, &b], &[true, true]);
    wait_serving(&proxy, "right", &[&guarded], &[true]);
    wait_serving(&proxy, "named", &[&guarded], &[true]);
    wait_reason(&proxy, "locked", "cannot log in: NOAUTH");
    wait_reason(&proxy, "wrong", "cannot log in: WRONGPASS");
    wait_reason(&proxy, "open", "cannot log in: ERR AUTH");
    let reasons = proxy.ask_admin("/readyz?verbose").text();
    assert!(reasons.contains("wrong_role"), "{reasons}");
    // The other way round, while both live on.
    tell_redis(&b, &["REPLICAOF NO ONE"]);
    wait_serving(&proxy, "masters", &[&a, &b], &[true, true]);
    tell_redis(&a, &[&format!("REPLICAOF {} {}", b.ip(), b.address.port())]);
    wait_serving(&proxy, "masters", &[&a, &b], &[false, true]);
    wait_serving(&proxy, "replicas", &[&a, &b], &[true, false]);
    let alarms = proxy.events_saying("backend is down");
    assert!(alarms.iter().all(|event| event["pool"] != "masters"), "{alarms:?}");
}

#[test]
fn a_redis_replica_without_its_master_is_no_replica_to_read_from() {
    let Some((mut a, b)) = redis_pair("--repl-timeout 2") else { return };
    wait_replica(&b);
    let config = setup().tcp("db", "replicas");
    let config = config.pool("replicas", [&b], &check("redis: {role: replica}"));
    let proxy = Proxy::start(&config);
    wait_serving(&proxy, "replicas", &[&b], &[true]);
    a.child.kill();
    wait_serving(&proxy, "replicas", &[&b], &[false]);
    wait_reason(&proxy, "replicas", "its link to the master is `connect`");
    let _ = databases::redis_at(a.address, "");
}

/// Redis with a port for TLS beside its own, by which the test tells it what to do.
fn redis_with_tls(folder: &Folder, options: &str) -> (Server, SocketAddr) {
    let address = free_address();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls = format!(
        "--tls-port {} --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} \
         --tls-auth-clients no",
        address.port(),
        file("db.pem"),
        file("db.key"),
        file("ca.pem")
    );
    let own = SocketAddr::new(address.ip(), free_address().port());
    (databases::redis_at(own, &format!("{tls} {options}")), address)
}

#[test]
fn probes_speak_tls_where_the_traffic_does() {
    if !program("redis-server") {
        return;
    }
    let (ca, other) = (Authority::new("a test's authority"), Authority::new("another"));
    let folder = secrets();
    folder.file("ca.pem", &ca.pem);
    folder.file("other.pem", &other.pem);
    ca.issue(&["db.internal"]).write(&folder, "db");
    let word = "--requirepass correct-horse --masterauth correct-horse";
    let (a, a_tls) = redis_with_tls(&folder, word);
    let of_a = format!("{word} --replicaof {} {}", a.ip(), a.address.port());
    let (b, b_tls) = redis_with_tls(&folder, &of_a);
    let told = |server: &Server, command: &str| {
        tell_redis(server, &["AUTH correct-horse", command]).pop().expect("an answer")
    };
    eventually("the replica follows", PATIENCE, || told(&b, "ROLE").contains("connected"));
    let probe = |role: &str| format!("redis: {{role: {role}, password_file: right}}");
    let tls = |ca: &str, check: &str| {
        format!("tls: {{ca: {ca}, server_name: db.internal}}, {check}, outlier: off")
    };
    let master = check(&probe("master"));
    let elsewhere = check(&format!("{}, port: {}", probe("master"), a.address.port()));
    let config = setup()
        .tcp("db", "masters")
        .tcp("wrong", "wrong_word")
        .pool("masters", [a_tls, b_tls], &tls("ca.pem", &master))
        .pool("replicas", [a_tls, b_tls], &tls("ca.pem", &check(&probe("replica"))))
        .pool("elsewhere", [a_tls], &tls("ca.pem", &elsewhere))
        .pool("strangers", [a_tls], &tls("other.pem", &master))
        .pool("in_clear", [a_tls], &master)
        .pool("wrong_word", [a_tls], &tls("ca.pem", &master.replace("right", "wrong")));
    let proxy = Proxy::start_beside(folder, &config);
    let serves = |pool: &str, expected: &[(SocketAddr, bool)]| {
        eventually(&format!("{expected:?} of {pool} serve"), PATIENCE, || {
            expected.iter().all(|(backend, serves)| {
                let labels = [("pool", pool), ("backend", &*backend.to_string())];
                (proxy.metric("evenkeel_backend_serving", &labels) == 1.0) == *serves
            })
        });
    };
    serves("masters", &[(a_tls, true), (b_tls, false)]);
    serves("replicas", &[(a_tls, false), (b_tls, true)]);
    serves("elsewhere", &[(a_tls, true)]);
    wait_reason(&proxy, "strangers", "comes from no CA that is trusted here");
    wait_reason(&proxy, "wrong_word", "cannot log in: WRONGPASS");
    wait_reason(&proxy, "in_clear", "");
    // What the probe found is what a client finds.
    let mut client = Redis::connect(proxy.address("db")).expect("a connection");
    let answers = client.ask(&["AUTH correct-horse", "ROLE"]).expect("answers");
    assert!(answers[1].contains("master"), "{answers:?}");
    told(&b, "REPLICAOF NO ONE");
    serves("masters", &[(a_tls, true), (b_tls, true)]);
}

/// Users of the monitor's that log in each in its own way.
const HBA: &str = "host all by_scram 127.0.0.0/8 scram-sha-256\n\
                   host all by_md5 127.0.0.0/8 md5\n\
                   host all by_trust 127.0.0.0/8 trust\n\
                   host all by_word 127.0.0.0/8 password\n";

const USERS: &str = "SET password_encryption = 'md5'; CREATE USER by_md5 PASSWORD 'correct-horse'; \
                     SET password_encryption = 'scram-sha-256'; \
                     CREATE USER by_scram PASSWORD 'correct-horse'; \
                     CREATE USER by_word PASSWORD 'correct-horse'; CREATE USER by_trust; \
                     CREATE USER by_nothing; CREATE USER app; \
                     CREATE TABLE ledger (id text); GRANT ALL ON ledger TO app";

#[test]
fn postgres_is_found_by_its_role_however_the_monitor_logs_in() {
    let Some(postgres) = Postgres::find() else { return };
    let a = postgres.primary(HBA);
    tell_postgres(&a, USERS);
    let b = postgres.replica(&a);
    let mut config = setup().tcp("db", "by_scram");
    for user in ["by_scram", "by_md5", "by_trust"] {
        let probe = format!("postgres: {{user: {user}, role: primary, password_file: right}}");
        config = config.pool(user, [&a, &b], &check(&probe));
    }
    let probe = "postgres: {user: by_scram, password_file: right, role: replica}";
    config = config.pool("replicas", [&a, &b], &check(probe));
    for (pool, probe) in [
        ("wrong", "postgres: {user: by_scram, password_file: wrong}"),
        ("wrong_md5", "postgres: {user: by_md5, password_file: wrong}"),
        ("none", "postgres: {user: by_scram}"),
        ("word", "postgres: {user: by_word, password_file: right}"),
        ("forbidden", "postgres: {user: by_nothing, password_file: right}"),
        ("database", "postgres: {user: by_trust, database: attic}"),
    ] {
        config = config.pool(pool, [&a], &check(probe));
    }
    let proxy = Proxy::start_beside(secrets(), &config);
    for pool in ["by_scram", "by_md5", "by_trust"] {
        wait_serving(&proxy, pool, &[&a, &b], &[true, false]);
    }
    wait_serving(&proxy, "replicas", &[&a, &b], &[false, true]);
    wait_reason(&proxy, "wrong", "cannot log in: password authentication failed");
    wait_reason(&proxy, "wrong_md5", "cannot log in: password authentication failed");
    wait_reason(&proxy, "none", "cannot log in: it asks for a password");
    wait_reason(&proxy, "word", "cannot log in: it asks for the password in clear text");
    wait_reason(&proxy, "forbidden", "cannot log in: no pg_hba.conf entry");
    wait_reason(&proxy, "database", "an error: database \\\"attic\\\" does not exist");
    let failures = |why| proxy.metric("evenkeel_backend_probe_failures_total", &[("why", why)]);
    assert!(failures("login") >= 5.0 && failures("server_error") >= 1.0);
    assert_eq!(failures("timeout"), 0.0);
    // Many probes later, nobody has anything to say of those that got in.
    let passed = [("pool", "by_scram"), ("result", "passed")];
    eventually("probes", PATIENCE, || {
        proxy.metric("evenkeel_backend_probes_total", &passed) > 10.0
    });
    b.assert_log_without(&ILL_MANNERED);
    b.assert_log_without(&["FATAL", "ERROR"]);
    databases::stop(b);
    databases::stop(a);
}

#[test]
fn mariadb_is_asked_whether_it_can_be_written_to() {
    let users = "CREATE USER monitor@'%' IDENTIFIED BY 'correct-horse';\n\
                 CREATE USER bare@'%';\n";
    let Some(server) = databases::mariadb(users) else { return };
    let mut config = setup().tcp("db", "writable");
    for (pool, probe) in [
        ("writable", "mysql: {user: monitor, password_file: right, role: writable}"),
        ("read_only", "mysql: {user: bare, role: read_only}"),
        ("any", "mysql: {user: monitor, password_file: right}"),
        ("greeting", "mysql: {}"),
        ("wrong", "mysql: {user: monitor, password_file: wrong, role: writable}"),
    ] {
        config = config.pool(pool, [&server], &check(probe));
    }
    let proxy = Proxy::start_beside(secrets(), &config);
    wait_serving(&proxy, "writable", &[&server], &[true]);
    wait_serving(&proxy, "read_only", &[&server], &[false]);
    wait_serving(&proxy, "any", &[&server], &[true]);
    wait_serving(&proxy, "greeting", &[&server], &[true]);
    wait_reason(&proxy, "wrong", "cannot log in: Access denied for user 'monitor'");
    databases::tell_mariadb(&server, "SET GLOBAL read_only = 1");
    wait_serving(&proxy, "writable", &[&server], &[false]);
    wait_serving(&proxy, "read_only", &[&server], &[true]);
    let alarms = proxy.events_saying("backend is down");
    assert!(alarms.iter().all(|event| event["pool"] == "wrong"), "{alarms:?}");
    let passed = [("pool", "greeting"), ("result", "passed")];
    eventually("probes", PATIENCE, || {
        proxy.metric("evenkeel_backend_probes_total", &passed) > 10.0
    });
    // No probe counts as one that broke off, of which a server bears only so many of one host.
    let aborted = "SELECT SUM(VARIABLE_VALUE) FROM information_schema.GLOBAL_STATUS \
                   WHERE VARIABLE_NAME IN ('ABORTED_CLIENTS', 'ABORTED_CONNECTS_PREAUTH', \
                   'CONNECTION_ERRORS_PEER_ADDRESS', 'CONNECTION_ERRORS_INTERNAL')";
    assert_eq!(databases::tell_mariadb(&server, aborted), "0");
    server.assert_log_without(&ILL_MANNERED);
}

/// A pool of two of which one is written to.
fn exclusive(servers: [&Server; 2], probe: &str) -> crate::harness::Setup {
    let check = check(probe);
    let keys = format!("failover: {{exclusive: true}}, {check}");
    setup().tcp("db", "db").pool("db", servers, &keys)
}

/// Prints how long nobody could write.
fn report(what: &str, took: Duration) {
    eprintln!("{what}: {} ms to the first good write", took.as_millis());
}

const REDIS_MASTER: &str = "redis: {role: master}";
const POSTGRES_PRIMARY: &str = "postgres: {user: by_scram, password_file: right, role: primary}";

fn list(server: &Server) -> Vec<String> {
    tell_redis(server, &["LRANGE ledger 0 -1"])[0].split_whitespace().map(String::from).collect()
}

/// Tells a master that its writes are safe without replicas: see `Session for Redis`.
fn alone(server: &Server) {
    tell_redis(server, &["REPLICAOF NO ONE", &format!("SET alone {}", server.ip())]);
}

#[test]
fn no_write_is_lost_when_a_redis_master_is_killed_and_none_goes_to_it_when_it_comes_back_empty() {
    let Some((mut a, b)) = redis_pair("") else { return };
    wait_replica(&b);
    let proxy = Proxy::start(exclusive([&a, &b], REDIS_MASTER));
    wait_serving(&proxy, "db", &[&a, &b], &[true, false]);
    let writers = Writers::start::<Redis>(proxy.address("db"), 4);
    writers.wait_acks(&a.ip(), 100);
    let killed = Instant::now();
    a.child.kill();
    alone(&b);
    writers.wait_acks(&b.ip(), 50);
    // It is restarted by somebody who means well: a second master, with nothing in it.
    let a = databases::redis_at(a.address, "");
    wait_serving(&proxy, "db", &[&a, &b], &[true, true]);
    writers.wait_acks(&b.ip(), 150);
    assert_eq!(list(&a), [""; 0]);
    let acks = writers.stop();
    report("Redis, its master killed", assert_one_after_the_other(&acks, &a.ip(), &b.ip(), killed));
    assert_all_there(&acks, &list(&b));
    assert_eq!(list(&a), [""; 0]);
}

#[test]
fn two_redis_masters_are_never_written_to_at_a_time_while_they_swap_roles() {
    let Some((a, b)) = redis_pair("") else { return };
    wait_replica(&b);
    let proxy = Proxy::start(exclusive([&a, &b], REDIS_MASTER));
    wait_serving(&proxy, "db", &[&a, &b], &[true, false]);
    let writers = Writers::start::<Redis>(proxy.address("db"), 4);
    writers.wait_acks(&a.ip(), 100);
    // Both are masters for a while: the present one stays.
    alone(&b);
    wait_serving(&proxy, "db", &[&a, &b], &[true, true]);
    let until = Instant::now() + Duration::from_millis(500);
    eventually("a while", PATIENCE, || Instant::now() > until);
    assert!(writers.acks().iter().all(|ack| ack.server == a.ip()), "the present one stays");
    let switched = Instant::now();
    tell_redis(&a, &[&format!("REPLICAOF {} {}", b.ip(), b.address.port())]);
    writers.wait_acks(&b.ip(), 100);
    let acks = writers.stop();
    let took = assert_one_after_the_other(&acks, &a.ip(), &b.ip(), switched);
    report("Redis, a swap of roles", took);
    assert_all_there(&acks, &list(&b));
}

/// A primary that acknowledges what its replica has, and that replica.
fn postgres_pair(postgres: &Postgres) -> (Server, Server) {
    let a = postgres.primary(HBA);
    tell_postgres(&a, USERS);
    let b = postgres.replica(&a);
    // On the primary alone: the replica would wait for one of its own once it is promoted.
    tell_postgres(&a, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    tell_postgres(&a, "SELECT pg_reload_conf()");
    eventually("writes wait for the replica", PATIENCE, || {
        tell_postgres(&a, "SELECT sync_state FROM pg_stat_replication") == ["sync"]
    });
    (a, b)
}

fn table(server: &Server) -> Vec<String> {
    tell_postgres(server, "SELECT id FROM ledger")
}

#[test]
fn no_write_is_lost_when_a_postgres_primary_is_killed_and_none_goes_to_it_when_it_comes_back() {
    let Some(postgres) = Postgres::find() else { return };
    let (a, b) = postgres_pair(&postgres);
    let proxy = Proxy::start_beside(secrets(), exclusive([&a, &b], POSTGRES_PRIMARY));
    wait_serving(&proxy, "db", &[&a, &b], &[true, false]);
    let writers = Writers::start::<Postgresql>(proxy.address("db"), 4);
    writers.wait_acks(&a.ip(), 100);
    let old = a.ip();
    let killed = Instant::now();
    let (folder, address) = Postgres::kill(a);
    tell_postgres(&b, "SELECT pg_promote(false)");
    writers.wait_acks(&b.ip(), 50);
    let there = tell_postgres(&b, "SELECT count(*) FROM ledger");
    // The old one comes back and still thinks that it is the primary.
    let a = postgres.run(folder, address, "-c synchronous_standby_names=");
    let before = table(&a);
    wait_serving(&proxy, "db", &[&a, &b], &[true, true]);
    writers.wait_acks(&b.ip(), 150);
    let acks = writers.stop();
    report(
        "PostgreSQL, its primary killed",
        assert_one_after_the_other(&acks, &old, &b.ip(), killed),
    );
    assert_all_there(&acks, &table(&b));
    assert_eq!(table(&a), before, "the old primary was written to after {there:?}");
    databases::stop(a);
    databases::stop(b);
}

#[test]
fn a_postgres_primary_that_is_frozen_gets_no_write_when_it_wakes_up() {
    let Some(postgres) = Postgres::find() else { return };
    let (a, b) = postgres_pair(&postgres);
    let config = exclusive([&a, &b], POSTGRES_PRIMARY);
    let proxy = Proxy::start_beside(secrets(), config);
    wait_serving(&proxy, "db", &[&a, &b], &[true, false]);
    let writers = Writers::start::<Postgresql>(proxy.address("db"), 4);
    writers.wait_acks(&a.ip(), 100);
    // Its main process: who is connected goes on, who comes (and every probe) waits.
    let frozen = Instant::now();
    a.child.signal(Signal::Stop);
    wait_serving(&proxy, "db", &[&a, &b], &[false, false]);
    tell_postgres(&b, "SELECT pg_promote(false)");
    writers.wait_acks(&b.ip(), 50);
    a.child.signal(Signal::Continue);
    // It follows the old timeline and waits for a replica that will never confirm: whoever writes to
    // it hangs, and whoever reads there sees what was.
    wait_serving(&proxy, "db", &[&a, &b], &[true, true]);
    writers.wait_acks(&b.ip(), 150);
    let acks = writers.stop();
    let took = assert_one_after_the_other(&acks, &a.ip(), &b.ip(), frozen);
    report("PostgreSQL, its primary frozen", took);
    assert_all_there(&acks, &table(&b));
    databases::stop(a);
    databases::stop(b);
}

#[test]
fn a_password_that_changes_is_read_again_at_a_reload() {
    let Some(server) = databases::redis("--requirepass first") else { return };
    let folder = Folder::new();
    folder.file("password", "first\n");
    let config = setup().tcp("db", "db");
    let config = config.pool("db", [&server], &check("redis: {password_file: password}"));
    let proxy = Proxy::start_beside(folder, &config);
    wait_serving(&proxy, "db", &[&server], &[true]);
    let mut session = Redis::connect(server.address).expect("a server that runs");
    session.ask(&["AUTH first", "CONFIG SET requirepass second"]).expect("the password is right");
    wait_reason(&proxy, "db", "cannot log in: WRONGPASS");
    std::fs::write(proxy.folder().join("password"), "second\n").expect("our own folder");
    assert!(proxy.reload(&config), "the same configuration, another password");
    wait_serving(&proxy, "db", &[&server], &[true]);
    std::fs::remove_file(proxy.folder().join("password")).expect("our own folder");
    assert!(!proxy.reload(&config), "a password that cannot be read is refused");
    assert_eq!(serving(&proxy, "db", &[&server]), [true]);
}
