//! `evenkeel switchover`, `failback`, `drain`, `disable`, `enable`: an operator's word to the running
//! evenkeel, and with `--wait` what comes of it.
//!
//! Exit codes: 0 it is done; 1 it is not, and one line says why; 2 wrong arguments; 3 the order was carried
//! out, but what was waited for had not come by the deadline.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ask::{Fault, Reach, ask};
use crate::config::units::{duration_argument, show_duration};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// After a drain's deadline, for the last connections to be closed.
const GRACE: Duration = Duration::from_secs(5);

/// What was waited for did not come in time.
const NOT_YET: u8 = 3;

/// Send a pool's traffic to another tier, until `failback`
#[derive(Clone, Debug, clap::Args)]
pub struct Switchover {
    #[arg(value_name = "POOL")]
    pub pool: String,
    /// The tier's number, as in the configuration [default: the next one that serves]
    #[arg(long, value_name = "TIER")]
    pub to: Option<u8>,
    #[command(flatten)]
    pub reach: Reach,
}

/// Send a pool's traffic back to the best tier that serves
#[derive(Clone, Debug, clap::Args)]
pub struct Failback {
    #[arg(value_name = "POOL")]
    pub pool: String,
    #[command(flatten)]
    pub reach: Reach,
}

/// Give a backend no new work; what it has may finish
#[derive(Clone, Debug, clap::Args)]
pub struct Drain {
    /// As in web/10.0.0.11:8080
    #[arg(value_name = "POOL/ADDRESS")]
    pub backend: Target,
    /// Come back when nothing is in progress there any more
    #[arg(long)]
    pub wait: bool,
    /// After so long close what is still in progress, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    pub deadline: Option<Duration>,
    #[command(flatten)]
    pub reach: Reach,
}

/// Take a backend out at once; the pool's `on_down` says what becomes of what it has
#[derive(Clone, Debug, clap::Args)]
pub struct Disable {
    #[command(flatten)]
    pub one: One,
}

/// Take `drain` or `disable` back; with --wait, come back when the backend serves
#[derive(Clone, Debug, clap::Args)]
pub struct Enable {
    #[command(flatten)]
    pub one: One,
}

#[derive(Clone, Debug, clap::Args)]
pub struct One {
    /// As in web/10.0.0.11:8080
    #[arg(value_name = "POOL/ADDRESS")]
    pub backend: Target,
    /// Come back when nothing is in progress there any more; of `enable`: when it serves
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer than this, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, requires = "wait")]
    pub deadline: Option<Duration>,
    #[command(flatten)]
    pub reach: Reach,
}

/// One backend of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub pool: String,
    pub address: SocketAddr,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (pool, address) = text
            .split_once('/')
            .ok_or("a backend is named by its pool and its address, as in web/10.0.0.11:8080")?;
        let address = address.parse().map_err(|_| {
            format!(
                "{address:?} is not an address and a port, as in 10.0.0.11:8080 or [fd00::1]:80"
            )
        })?;
        Ok(Target { pool: pool.to_owned(), address })
    }
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub fn switchover(args: &Switchover, env: Env<'_>) -> ExitCode {
    let order = args.to.map_or_else(|| json!({}), |tier| json!({"tier": tier}));
    let path = format!("/api/v1/pools/{}/switchover", args.pool);
    told("switchover", order_at(args.reach.address(env), &path, &order))
}

pub fn failback(args: &Failback, env: Env<'_>) -> ExitCode {
    let path = format!("/api/v1/pools/{}/failback", args.pool);
    told("failback", order_at(args.reach.address(env), &path, &json!({})))
}

pub fn drain(args: &Drain, env: Env<'_>) -> ExitCode {
    let order = args
        .deadline
        .map_or_else(|| json!({}), |deadline| json!({"deadline": show_duration(deadline)}));
    let wait = args.wait.then(|| Wait {
        until: Until::AtRest("draining"),
        most: args.deadline.map(|deadline| deadline + GRACE),
    });
    backend("drain", &args.reach, &args.backend, &order, wait, env)
}

pub fn disable(args: &Disable, env: Env<'_>) -> ExitCode {
    let One { backend: target, wait, deadline, reach } = &args.one;
    let wait = wait.then_some(Wait { until: Until::AtRest("disabled"), most: *deadline });
    backend("disable", reach, target, &json!({}), wait, env)
}

pub fn enable(args: &Enable, env: Env<'_>) -> ExitCode {
    let One { backend: target, wait, deadline, reach } = &args.one;
    let wait = wait.then_some(Wait { until: Until::Serving, most: *deadline });
    backend("enable", reach, target, &json!({}), wait, env)
}

#[derive(Clone, Copy)]
struct Wait {
    until: Until,
    most: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Until {
    /// Nothing is in progress, while this reason is set.
    AtRest(&'static str),
    Serving,
}

fn backend(
    command: &str,
    reach: &Reach,
    target: &Target,
    order: &Value,
    wait: Option<Wait>,
    env: Env<'_>,
) -> ExitCode {
    let at = reach.address(env);
    let Target { pool, address } = target;
    let path = format!("/api/v1/pools/{pool}/backends/{address}/{command}");
    let done = order_at(at, &path, order);
    match (done, wait) {
        (Ok(()), Some(wait)) => waited(command, at, target, wait),
        (done, _) => told(command, done),
    }
}

/// Gives the order, and prints what came of it.
fn order_at(address: SocketAddr, path: &str, order: &Value) -> Result<(), Fault> {
    let done = ask(address, path, Some(order))?;
    println!("{}", done["message"].as_str().ok_or(Fault::NotOurs(address))?);
    Ok(())
}

fn told(command: &str, done: Result<(), Fault>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("evenkeel {command}: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Looks until it is so, or too late.
fn waited(command: &str, at: SocketAddr, target: &Target, wait: Wait) -> ExitCode {
    let began = Instant::now();
    let Target { pool, address } = target;
    loop {
        let now = match ask(at, &format!("/api/v1/pools/{pool}"), None) {
            Ok(now) => now,
            Err(fault) => return told(command, Err(fault)),
        };
        match look(&now, *address, wait.until) {
            Look::Done(how) => {
                let took = show_duration(Duration::from_millis(began.elapsed().as_millis() as u64));
                println!("{pool}/{address} {how} (after {took})");
                return ExitCode::SUCCESS;
            }
            Look::Never(why) => {
                eprintln!("evenkeel {command}: {pool}/{address} {why}");
                return ExitCode::FAILURE;
            }
            Look::NotYet(how) => {
                if wait.most.is_some_and(|most| began.elapsed() >= most) {
                    eprintln!("evenkeel {command}: {pool}/{address} {how}; not waiting any longer");
                    return ExitCode::from(NOT_YET);
                }
            }
        }
        sleep(LOOK);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Done(String),
    NotYet(String),
    Never(String),
}

/// What is to be seen of a backend in its pool.
fn look(pool: &Value, address: SocketAddr, until: Until) -> Look {
    let tiers = pool["tiers"].as_array().into_iter().flatten();
    let mut backends = tiers.flat_map(|tier| tier["backends"].as_array().into_iter().flatten());
    let address = address.to_string();
    let Some(backend) = backends.find(|backend| backend["address"] == address.as_str()) else {
        return match until {
            Until::AtRest(_) => Look::Done("is in the configuration no more".to_owned()),
            Until::Serving => Look::Never("is in the configuration no more".to_owned()),
        };
    };
    let reasons: Vec<&str> =
        backend["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let in_flight = backend["in_flight"].as_u64().unwrap_or(0);
    match until {
        Until::AtRest(reason) if !reasons.contains(&reason) => {
            Look::Never(format!("is not {reason} any more: somebody else has spoken"))
        }
        Until::AtRest(_) if in_flight == 0 => Look::Done("has nothing in progress".to_owned()),
        Until::AtRest(_) => Look::NotYet(format!("has {in_flight} in progress")),
        Until::Serving if reasons.is_empty() => Look::Done("serves".to_owned()),
        Until::Serving => Look::NotYet(format!("is {}", reasons.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_by_pool_and_address() {
        let target = |text: &str| text.parse::<Target>().map(|t| (t.pool, t.address.to_string()));
        let ok = |pool: &str, address: &str| Ok((pool.to_owned(), address.to_owned()));
        assert_eq!(target("web/10.0.0.1:80"), ok("web", "10.0.0.1:80"));
        assert_eq!(target("db/[fd00::1]:5432"), ok("db", "[fd00::1]:5432"));
        assert!(target("10.0.0.1:80").unwrap_err().contains("web/10.0.0.11:8080"));
        assert!(target("web/10.0.0.1").unwrap_err().contains("port"));
        assert!(target("web/").is_err());
    }

    #[test]
    fn what_is_waited_for_is_seen() {
        let pool = |reasons: &[&str], in_flight| {
            json!({"tiers": [{"backends": []}, {"backends": [
                {"address": "10.0.0.1:80", "reasons": reasons, "in_flight": in_flight}]}]})
        };
        let address = "10.0.0.1:80".parse().unwrap();
        let rest = Until::AtRest("draining");
        let done = |text: &str| Look::Done(text.to_owned());
        let not_yet = |text: &str| Look::NotYet(text.to_owned());
        assert_eq!(look(&pool(&["draining"], 2), address, rest), not_yet("has 2 in progress"));
        assert_eq!(look(&pool(&["draining"], 0), address, rest), done("has nothing in progress"));
        assert!(matches!(look(&pool(&[], 0), address, rest), Look::Never(_)));
        assert!(matches!(look(&json!({}), address, rest), Look::Done(_)));
        assert_eq!(look(&pool(&[], 7), address, Until::Serving), done("serves"));
        let down = look(&pool(&["down"], 0), address, Until::Serving);
        assert_eq!(down, not_yet("is down"));
        assert!(matches!(look(&json!({}), address, Until::Serving), Look::Never(_)));
    }
}
