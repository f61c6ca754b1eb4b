//! Which certificate for a ClientHello: by its server name, and by what its client can verify. (P)
//!
//! Exact names before wildcards, those in force before those that are not, ECDSA before RSA (the
//! cheaper signature, for both ends), else the order of the file. Without a match the default, unless
//! only names that are covered are wanted.

use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxHashMap;
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::config::model::{Certificate, HostPattern};

#[derive(Debug)]
pub struct Names {
    candidates: Box<[Candidate]>,
    /// Places in `candidates`; a wildcard is kept as `.example.com`.
    exact: FxHashMap<Box<str>, Vec<usize>>,
    wildcard: FxHashMap<Box<str>, Vec<usize>>,
    /// The first certificate and its siblings of the same names: RSA beside ECDSA, a renewed one
    /// beside one that is over. Empty where a client must name what is covered.
    default: Vec<usize>,
}

#[derive(Debug)]
struct Candidate {
    certified: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    rank: u8,
}

impl Names {
    /// `strict`: a client that names nobody, or somebody whom no certificate covers, gets none, as
    /// with the `strict-sni` of HAProxy.
    pub fn new(certificates: &[Certificate], strict: bool) -> Names {
        let mut exact: FxHashMap<Box<str>, Vec<usize>> = FxHashMap::default();
        let mut wildcard: FxHashMap<Box<str>, Vec<usize>> = FxHashMap::default();
        for (place, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                let places = match name {
                    HostPattern::Exact(name) => exact.entry(name.as_str().into()),
                    HostPattern::Wildcard(suffix) => wildcard.entry(suffix.as_str().into()),
                };
                places.or_default().push(place);
            }
        }
        let default = match certificates.first() {
            Some(first) if !strict => {
                let like = |c: &Certificate| c.names == first.names && !first.names.is_empty();
                let places = certificates.iter().enumerate();
                places.filter(|(i, c)| *i == 0 || like(c)).map(|(i, _)| i).collect()
            }
            _ => Vec::new(),
        };
        let candidates = certificates.iter().map(Candidate::new).collect();
        Names { candidates, exact, wildcard, default }
    }

    /// `name` in lower case, as rustls gives it; `offered` is what the client can verify.
    pub fn pick(
        &self,
        name: Option<&str>,
        offered: &[SignatureScheme],
        now: SystemTime,
    ) -> Option<&Arc<CertifiedKey>> {
        let (exact, wildcard) = match name {
            Some(name) => self.covering(name),
            None => (&[][..], &[][..]),
        };
        let named = exact.iter().chain(wildcard);
        let places: Vec<usize> = match exact.len() + wildcard.len() {
            0 => self.default.clone(),
            _ => named.copied().collect(),
        };
        // The one that there is needs no comparing, and what it is offered rustls looks at itself.
        if let [only] = places[..] {
            return Some(&self.candidates[only].certified);
        }
        // Places are in order: exact before wildcard, then as in the file; the first best is taken.
        let best =
            places.into_iter().map(|place| &self.candidates[place]).min_by_key(|candidate| {
                (!candidate.usable(offered), !candidate.in_force(now), candidate.rank)
            });
        best.map(|candidate| &candidate.certified)
    }

    /// Whether there is a certificate that covers `name`, a default aside.
    pub fn covers(&self, name: &str) -> bool {
        let (exact, wildcard) = self.covering(name);
        !exact.is_empty() || !wildcard.is_empty()
    }

    fn covering(&self, name: &str) -> (&[usize], &[usize]) {
        let exact = self.exact.get(name).map_or(&[][..], Vec::as_slice);
        // A star stands for exactly one label (RFC 9525 6.3).
        let suffix = name.find('.').map(|dot| &name[dot..]);
        let wildcard = suffix.and_then(|suffix| self.wildcard.get(suffix));
        (exact, wildcard.map_or(&[][..], Vec::as_slice))
    }
}

impl Candidate {
    fn new(certificate: &Certificate) -> Candidate {
        let rank = match certificate.certified.key.algorithm() {
            SignatureAlgorithm::RSA => 1,
            _ => 0,
        };
        Candidate {
            certified: certificate.certified.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            rank,
        }
    }

    fn usable(&self, offered: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(offered).is_some()
    }

    fn in_force(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Folder, Kind, LONG, PAST, Years, signed_by_itself};

    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    /// The names of what is picked, by file.
    struct Set {
        certificates: Vec<Certificate>,
        _folder: Folder,
    }

    fn set(made: &[(&str, &[&str], Kind, Years)]) -> Set {
        let folder = Folder::new();
        let make = |(file, names, kind, years): &(&str, &[&str], Kind, Years)| {
            folder.pair(file, &signed_by_itself(names, *kind, *years))
        };
        Set { certificates: made.iter().map(make).collect(), _folder: folder }
    }

    impl Set {
        fn pick(&self, name: &str, offered: &[SignatureScheme], strict: bool) -> Option<&str> {
            let names = Names::new(&self.certificates, strict);
            let name = (!name.is_empty()).then_some(name);
            let picked = names.pick(name, offered, SystemTime::now())?;
            let found = self.certificates.iter().find(|c| Arc::ptr_eq(&c.certified, picked));
            found.and_then(|c| c.cert.file_stem()?.to_str())
        }
    }

    #[test]
    fn exact_before_wildcard_before_default() {
        let set = set(&[
            ("first", &["first.example"], Kind::Ecdsa, LONG),
            ("wild", &["*.a.example", "a.example"], Kind::Ecdsa, LONG),
            ("exact", &["x.a.example"], Kind::Ecdsa, LONG),
        ]);
        for (name, strict, expected) in [
            ("first.example", false, Some("first")),
            ("x.a.example", false, Some("exact")),
            ("y.a.example", false, Some("wild")),
            ("a.example", false, Some("wild")),
            // One label, no more and no less.
            ("z.y.a.example", false, Some("first")),
            ("b.example", false, Some("first")),
            ("", false, Some("first")),
            ("x.a.example", true, Some("exact")),
            ("z.y.a.example", true, None),
            ("b.example", true, None),
            ("", true, None),
        ] {
            assert_eq!(set.pick(name, &[ECDSA, RSA], strict), expected, "{name} {strict}");
        }
        let names = Names::new(&set.certificates, false);
        assert!(names.covers("q.a.example") && !names.covers("b.example"));
    }

    #[test]
    fn a_client_gets_what_it_can_verify() {
        let set = set(&[
            ("rsa", &["a.example"], Kind::Rsa, LONG),
            ("ecdsa", &["a.example"], Kind::Ecdsa, LONG),
        ]);
        for name in ["a.example", "other.example", ""] {
            assert_eq!(set.pick(name, &[RSA, ECDSA], false), Some("ecdsa"), "{name}");
            assert_eq!(set.pick(name, &[RSA], false), Some("rsa"), "{name}");
            assert_eq!(set.pick(name, &[ECDSA], false), Some("ecdsa"), "{name}");
            // None would do: rustls then says why.
            assert!(set.pick(name, &[SignatureScheme::ED25519], false).is_some());
        }
    }

    #[test]
    fn what_is_over_is_served_only_where_there_is_no_better() {
        let set = set(&[
            ("old", &["a.example"], Kind::Ecdsa, PAST),
            ("wild", &["*.example"], Kind::Rsa, LONG),
            ("future", &["b.example"], Kind::Ecdsa, Years(2048, 2049)),
            ("lone", &["lone.test"], Kind::Ecdsa, PAST),
        ]);
        assert_eq!(set.pick("a.example", &[RSA, ECDSA], false), Some("wild"));
        assert_eq!(set.pick("b.example", &[RSA, ECDSA], false), Some("wild"));
        assert_eq!(set.pick("a.example", &[ECDSA], false), Some("old"), "nothing else is usable");
        assert_eq!(set.pick("lone.test", &[RSA, ECDSA], true), Some("lone"));
    }

    #[test]
    fn no_certificate_is_no_panic() {
        assert!(
            Names::new(&[], false).pick(Some("a.example"), &[RSA], SystemTime::now()).is_none()
        );
    }
}
