//! One certificate from the ACME server, from the account to the file it is kept in (RFC 8555, 7.1).
//!
//! Says what failed and whose doing it was; when to try again is for `machine`. Nothing that is held
//! already is touched before the new certificate is whole, proved and on the disk.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::certificate;
use super::challenges::{Challenges, Offered, Reply};
use super::client::{Heard, Https};
use super::disk::{Disk, Held};
use super::machine::Failure;
use super::store::{self, AccountError, Store};
use crate::config::model::{Acme, Certificate};
use crate::observe::printable::printable;
use crate::tls::certificates;

/// For the server to look at our answer to its challenge, and again for it to sign.
const PATIENCE: Duration = Duration::from_secs(90);

/// Until it is looked again whether another process has made an account.
const ACCOUNT_ELSEWHERE: Duration = Duration::from_millis(500);

/// Of what a server says, so much is shown.
const SHOWN: usize = 600;

/// How we prove that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// RFC 8555 8.3, on port 80.
    Http,
    /// RFC 8737, on port 443.
    TlsAlpn,
}

impl Way {
    pub fn label(self) -> &'static str {
        match self {
            Way::Http => "http-01",
            Way::TlsAlpn => "tls-alpn-01",
        }
    }

    fn kind(self) -> ChallengeType {
        match self {
            Way::Http => ChallengeType::Http01,
            Way::TlsAlpn => ChallengeType::TlsAlpn01,
        }
    }
}

/// Why there is no certificate.
#[derive(Debug)]
pub struct OrderError {
    pub failure: Failure,
    text: String,
}

impl OrderError {
    fn new(failure: Failure, text: impl fmt::Display) -> OrderError {
        let text = text.to_string().chars().take(SHOWN).map(printable).collect();
        OrderError { failure, text }
    }

    /// What cannot be written or read is mended by an operator, and costs the server nothing.
    pub fn of_state(store: &Store, error: impl fmt::Display) -> OrderError {
        let text = format!("the state directory {}: {error}", store.folder().display());
        OrderError::new(Failure::Unreached, text)
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an order needs.
pub struct Orderer<'a> {
    pub acme: &'a Acme,
    pub domain: &'a str,
    /// The first that the server offers is tried first; at least one.
    pub ways: &'a [Way],
    pub disk: &'a Disk,
    pub challenges: &'a Arc<Challenges>,
    /// One account is made, however many names are ordered at once. (A lock keeps other processes away.)
    pub accounts: &'a Mutex<()>,
}

/// Why one way did not lead to a certificate.
enum Stop {
    /// The server did not find the proof. Another way may do.
    Unproved(String),
    /// The server has forgotten our account.
    NoAccount,
    Failed(OrderError),
}

impl From<OrderError> for Stop {
    fn from(error: OrderError) -> Stop {
        Stop::Failed(error)
    }
}

impl Orderer<'_> {
    /// Orders, proves, and keeps the certificate.
    pub async fn obtain(&self) -> Result<Certificate, OrderError> {
        let heard = Arc::new(Heard::default());
        let mut account = self.account(&heard, None).await?;
        let mut unproved = Vec::new();
        let mut ways = self.ways.iter().peekable();
        let mut renewed = false;
        while let Some(way) = ways.peek() {
            match self.by(**way, &account, &heard).await {
                Ok(pem) => return self.keep(pem).await,
                Err(Stop::Unproved(why)) => {
                    unproved.push(format!("{}: {why}", way.label()));
                    ways.next();
                }
                Err(Stop::NoAccount) if !renewed => {
                    renewed = true;
                    tracing::warn!(
                        directory = self.acme.directory,
                        "the ACME server does not know \
                                   our account any more; making another"
                    );
                    let forgotten = account.id().to_owned();
                    account = self.account(&heard, Some(&forgotten)).await?;
                }
                Err(Stop::NoAccount) => {
                    let text = "the server does not know the account that it just made";
                    return Err(OrderError::new(Failure::Refused, text));
                }
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        let text =
            format!("the server could not see that the name is ours: {}", unproved.join("; "));
        Err(OrderError::new(Failure::Refused, text))
    }

    /// The account that is kept, unless the server has forgotten just that, or a new one.
    async fn account(
        &self,
        heard: &Arc<Heard>,
        forgotten: Option<&str>,
    ) -> Result<Account, OrderError> {
        let good = |kept: &store::Account| forgotten != Some(&*kept.id);
        let mut known = self.kept(kept_account).await?.filter(good);
        let mut _making = None;
        if known.is_none() {
            _making = Some((self.accounts.lock().await, self.lock_account().await?));
            // Another name's order may have made it, or another process.
            known = self.kept(usable_account).await?.filter(good);
        }
        let client = self.client(heard).await?;
        let builder = Account::builder_with_http(Box::new(client));
        let contact = self.acme.contact.as_deref();
        let list: Vec<&str> = contact.into_iter().collect();
        let (account, credentials) = match known {
            Some(store::Account { credentials, contact: told, .. }) => {
                let account = builder
                    .from_credentials(credentials)
                    .await
                    .map_err(|error| failed(error, heard))?;
                if told.as_deref() == contact {
                    return Ok(account);
                }
                // Without it the order goes on; a server that has forgotten us says so again there.
                if let Err(error) = account.update_contacts(&list).await {
                    let error = failed(error, heard);
                    tracing::warn!(%error, "the ACME server does not take the new contact");
                    return Ok(account);
                }
                let again = self.disk.run(Store::account).await;
                let Ok(Some(again)) = again else { return Ok(account) };
                (account, again.credentials)
            }
            None => {
                let new = NewAccount {
                    contact: &list,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let directory = self.acme.directory.clone();
                let made = builder.create(&new, directory, None).await;
                made.map_err(|error| failed(error, heard))?
            }
        };
        let (id, contact) = (account.id().to_owned(), contact.map(str::to_owned));
        let keep = store::Account { id, credentials, contact };
        self.disk
            .run(move |store| store.keep_account(&keep))
            .await
            .map_err(|e| self.unusable(e))?;
        Ok(account)
    }

    fn unusable(&self, error: io::Error) -> OrderError {
        OrderError::of_state(&self.disk.store, error)
    }

    async fn kept(&self, read: Read) -> Result<Option<store::Account>, OrderError> {
        self.disk.run(move |store| Ok(read(store))).await.map_err(|error| self.unusable(error))?
    }

    /// Waits for another process to be done.
    async fn lock_account(&self) -> Result<Held, OrderError> {
        let end = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            match self.disk.lock_account().await.map_err(|error| self.unusable(error))? {
                Some(held) => return Ok(held),
                None if Instant::now() < end => {
                    if !told {
                        tracing::info!("another process makes an ACME account; waiting for it");
                    }
                    told = true;
                    sleep(ACCOUNT_ELSEWHERE).await;
                }
                None => {
                    let text = "another process that shares it is making an account without end";
                    return Err(self.unusable(io::Error::other(text)));
                }
            }
        }
    }

    /// Whom the system trusts is read anew each time, and that from the disk.
    async fn client(&self, heard: &Arc<Heard>) -> Result<Https, OrderError> {
        let (ca, heard) = (self.acme.ca.clone(), heard.clone());
        let client = tokio::task::spawn_blocking(move || Https::new(ca.as_ref(), heard)).await;
        let client = client.map_err(|error| OrderError::new(Failure::Unreached, error))?;
        client.map_err(|error| OrderError::new(Failure::Unreached, error))
    }

    /// The private key and the chain, in PEM.
    async fn by(&self, way: Way, account: &Account, heard: &Heard) -> Result<String, Stop> {
        let said = |error| stop(error, heard);
        let names = [Identifier::Dns(self.domain.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(said)?;
        let mut offered = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(said)?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(Stop::Unproved(format!("the authorization is {other:?}"))),
            }
            let mut challenge = authorization
                .challenge(way.kind())
                .ok_or_else(|| Stop::Unproved("the server does not offer it".to_owned()))?;
            offered.push(self.offer(way, &challenge)?);
            challenge.set_ready().await.map_err(said)?;
        }
        wait_ready(&mut order, heard).await?;
        drop(offered);
        let key = order.finalize().await.map_err(said)?;
        let patience = RetryPolicy::new().backoff(1.5).timeout(PATIENCE);
        let chain = order.poll_certificate(&patience).await.map_err(said)?;
        Ok(key + &chain)
    }

    fn offer(&self, way: Way, challenge: &ChallengeHandle<'_>) -> Result<Offered, OrderError> {
        let authorization = challenge.key_authorization();
        let reply = match way {
            Way::Http => Reply::Http {
                token: challenge.token.clone(),
                authorization: authorization.as_str().to_owned().into(),
            },
            Way::TlsAlpn => Reply::Tls {
                name: self.domain.to_owned(),
                certificate: certificate::of_challenge(
                    self.domain,
                    authorization.digest().as_ref(),
                )
                .map_err(|error| OrderError::new(Failure::Refused, error))?,
            },
        };
        Ok(self.challenges.offer(reply))
    }

    async fn keep(&self, pem: String) -> Result<Certificate, OrderError> {
        let path = self.disk.store.certificate_path(self.domain);
        let read = certificates::of_text(pem.as_bytes(), &path).map_err(|error| error.to_string());
        let fit = read.and_then(|read| certificate::fit(read, self.domain, SystemTime::now()));
        let got = fit.map_err(|why| {
            let text = format!("the server gave a certificate that cannot be used: {why}");
            OrderError::new(Failure::Refused, text)
        })?;
        let domain = self.domain.to_owned();
        let kept = move |store: &Store| store.keep_certificate(&domain, pem.as_bytes());
        // It serves all the same; what is lost is lost at the next restart, and that is said.
        if let Err(error) = self.disk.run(kept).await {
            tracing::error!(
                path = %path.display(), %error,
                "the new certificate serves, but cannot be kept: a restart will order another"
            );
        }
        Ok(got)
    }
}

/// Reads the account.
type Read = fn(&Store) -> Result<Option<store::Account>, OrderError>;

/// One that cannot be read just now is none to be replaced.
fn kept_account(store: &Store) -> Result<Option<store::Account>, OrderError> {
    match store.account() {
        Ok(kept) => Ok(kept),
        Err(AccountError::Damaged(_)) => Ok(None),
        Err(error @ AccountError::Read(_)) => Err(OrderError::of_state(store, error)),
    }
}

/// The same under the lock: one that is damaged is set aside, and not what another process has put in
/// its place meanwhile.
fn usable_account(store: &Store) -> Result<Option<store::Account>, OrderError> {
    match store.account() {
        Ok(kept) => Ok(kept),
        Err(AccountError::Damaged(error)) => {
            store.set_account_aside().map_err(|error| OrderError::of_state(store, error))?;
            let folder = store.folder().display();
            tracing::warn!(%folder, %error, "the ACME account is set aside; making another");
            Ok(None)
        }
        Err(error @ AccountError::Read(_)) => Err(OrderError::of_state(store, error)),
    }
}

/// Until the server has seen the proof.
async fn wait_ready(order: &mut Order, heard: &Heard) -> Result<(), Stop> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(250);
    loop {
        sleep(pause).await;
        pause = pause.mul_f64(1.5).min(Duration::from_secs(5));
        match order.refresh().await.map_err(|error| stop(error, heard))?.status {
            OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Processing => return Ok(()),
            OrderStatus::Invalid => return Err(Stop::Unproved(why(order).await)),
            OrderStatus::Pending if Instant::now() > end => {
                let text = format!("no verdict within {} s", PATIENCE.as_secs());
                return Err(Stop::Unproved(text));
            }
            OrderStatus::Pending => {}
        }
    }
}

/// What the server says against our proof.
async fn why(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return problem.to_string();
        }
    }
    "it does not say why".to_owned()
}

fn stop(error: Error, heard: &Heard) -> Stop {
    match error {
        Error::Api(problem) if is(&problem, "accountDoesNotExist") => Stop::NoAccount,
        other => Stop::Failed(failed(other, heard)),
    }
}

/// What an error means for the next try.
fn failed(error: Error, heard: &Heard) -> OrderError {
    let failure = match (&error, heard.retry_after()) {
        (Error::Api(problem), Some(after)) if is(problem, "rateLimited") => Failure::Told(after),
        (_, Some(after)) if heard.is_closed() => Failure::Closed(after),
        // It will take longer than we have patience for, and said when to come again.
        (Error::Timeout(Some(at)), _) => {
            Failure::Told(at.saturating_duration_since(Instant::now().into_std()))
        }
        // The crate has tried it three times (RFC 8555 6.5).
        (Error::Api(problem), _) if is(problem, "badNonce") || is(problem, "serverInternal") => {
            Failure::Unreached
        }
        (Error::Other(_) | Error::Json(_), _) => Failure::Unreached,
        _ => Failure::Refused,
    };
    OrderError::new(failure, chain(&error))
}

/// An error with all that it comes of.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// RFC 8555 6.7.
fn is(problem: &Problem, kind: &str) -> bool {
    let known =
        problem.r#type.as_deref().and_then(|t| t.strip_prefix("urn:ietf:params:acme:error:"));
    known == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a server says it.
    fn problem(kind: &str) -> Error {
        let text = format!(r#"{{"type": "urn:ietf:params:acme:error:{kind}", "detail": "a\nb"}}"#);
        Error::Api(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn when_it_is_tried_again_goes_by_whose_doing_it_was() {
        use http::StatusCode;
        let heard = Heard::default();
        for (error, failure) in [
            (problem("rateLimited"), Failure::Refused),
            (problem("rejectedIdentifier"), Failure::Refused),
            (problem("serverInternal"), Failure::Unreached),
            (problem("badNonce"), Failure::Unreached),
            (Error::Other("cannot connect".into()), Failure::Unreached),
            (Error::Str("no order URL found"), Failure::Refused),
        ] {
            assert_eq!(failed(error, &heard).failure, failure);
        }
        let mut headers = http::HeaderMap::new();
        headers.insert("retry-after", http::HeaderValue::from_static("120"));
        heard.hear(StatusCode::TOO_MANY_REQUESTS, &headers);
        let told = failed(problem("rateLimited"), &heard).failure;
        assert_eq!(told, Failure::Told(Duration::from_secs(120)));
        // Of the server itself, or of something before it that knows nothing of ACME.
        heard.hear(StatusCode::SERVICE_UNAVAILABLE, &headers);
        let closed = Failure::Closed(Duration::from_secs(120));
        for error in [problem("serverInternal"), Error::Other("the server answers 503".into())] {
            assert_eq!(failed(error, &heard).failure, closed);
        }
        // What it says of its own accord, with an answer that is none of these, means something else.
        heard.hear(StatusCode::INTERNAL_SERVER_ERROR, &headers);
        assert_eq!(failed(problem("serverInternal"), &heard).failure, Failure::Unreached);
        // A certificate that takes longer (RFC 8555 7.4).
        let at = Instant::now().into_std() + Duration::from_secs(600);
        let told = failed(Error::Timeout(Some(at)), &heard).failure;
        assert!(matches!(told, Failure::Told(after) if (590..=600).contains(&after.as_secs())));
        assert_eq!(failed(Error::Timeout(None), &heard).failure, Failure::Refused);
        let forgotten = stop(problem("accountDoesNotExist"), &heard);
        assert!(matches!(forgotten, Stop::NoAccount));
    }

    #[test]
    fn an_account_is_lost_neither_to_a_bad_disk_nor_to_bad_text() {
        let folder = std::env::temp_dir().join(format!("evenkeel-order-{:x}", fastrand::u64(..)));
        let store = Store::new(&folder, "https://acme.example/dir");
        assert!(kept_account(&store).unwrap().is_none());
        // What a read stumbles over, whoever runs this.
        let path = store.folder().join("account.json");
        std::fs::create_dir_all(&path).unwrap();
        let error = kept_account(&store).err().unwrap();
        assert_eq!(error.failure, Failure::Unreached);
        assert!(path.exists(), "{error}");
        std::fs::remove_dir(&path).unwrap();
        for text in ["{", "7", "{\"credentials\": 7}"] {
            std::fs::write(&path, text).unwrap();
            assert!(
                kept_account(&store).unwrap().is_none() && path.exists(),
                "not without the lock"
            );
            assert!(usable_account(&store).unwrap().is_none());
            let aside = std::fs::read_to_string(path.with_extension("json.bad")).unwrap();
            assert!(aside == text && !path.exists(), "{text}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_a_server_says_breaks_no_line() {
        let text = failed(problem("unauthorized"), &Heard::default()).to_string();
        assert!(text.contains("a b") && !text.contains('\n'), "{text}");
        let long = OrderError::new(Failure::Refused, "x".repeat(5000));
        assert_eq!(long.to_string().len(), SHOWN);
    }
}
