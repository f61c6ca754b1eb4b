//! The routes of a tcp listener: by the TLS server name that its client asks for. (P)

use super::{PoolId, UnknownPool};
use crate::config::model::{HostPattern, Name, TcpAction, TcpRoute};

/// First match wins.
#[derive(Debug)]
pub struct Streams(Box<[(Box<[HostPattern]>, Taken)]>);

/// What is done with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    To(PoolId),
    Rejected,
    /// No route matches it.
    Nowhere,
}

impl Streams {
    pub fn new(
        routes: &[TcpRoute],
        find: &dyn Fn(&Name) -> Option<PoolId>,
    ) -> Result<Streams, UnknownPool> {
        let taken = |action: &TcpAction| match action {
            TcpAction::Pool(pool) => {
                find(pool).map(Taken::To).ok_or_else(|| UnknownPool(pool.clone()))
            }
            TcpAction::Reject => Ok(Taken::Rejected),
        };
        let routes = routes.iter();
        let routes = routes.map(|route| Ok((route.sni.as_slice().into(), taken(&route.action)?)));
        routes.collect::<Result<_, _>>().map(Streams)
    }

    /// Where all streams go, whatever their clients say: nobody need wait for that.
    pub fn all_alike(&self) -> Option<Taken> {
        match self.0.first() {
            None => Some(Taken::Nowhere),
            Some((names, taken)) => names.is_empty().then_some(*taken),
        }
    }

    /// `name` as [`crate::tls::sni`] gives it; `None` for a client that sends none.
    pub fn find(&self, name: Option<&str>) -> Taken {
        let found = self.0.iter().find(|(names, _)| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|one| fits(one, name)))
        });
        found.map_or(Taken::Nowhere, |(_, taken)| *taken)
    }
}

fn fits(pattern: &HostPattern, name: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => name == exact,
        HostPattern::Wildcard(suffix) => name
            .strip_suffix(suffix.as_str())
            .is_some_and(|label| !label.is_empty() && !label.contains('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(routes: &[(&[&str], Option<&str>)]) -> Streams {
        let pattern = |text: &&str| match text.strip_prefix('*') {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact((*text).to_owned()),
        };
        let routes: Vec<TcpRoute> = routes
            .iter()
            .map(|(sni, pool)| TcpRoute {
                sni: sni.iter().map(pattern).collect(),
                action: pool.map_or(TcpAction::Reject, |pool| {
                    TcpAction::Pool(Name::new(pool).expect("a name"))
                }),
            })
            .collect();
        let find = |name: &Name| name.as_str().strip_prefix("p")?.parse().ok().map(PoolId);
        Streams::new(&routes, &find).expect("all pools are known")
    }

    #[test]
    fn the_first_match_wins_and_a_star_is_one_label() {
        let to = |n| Taken::To(PoolId(n));
        let some: &[(&[&str], _)] = &[
            (&["a.example", "b.example"], Some("p0")),
            (&["x.y.example"], None),
            (&["*.y.example", "b.example"], Some("p1")),
        ];
        for (name, expected, with_rest) in [
            (Some("a.example"), to(0), to(0)),
            (Some("b.example"), to(0), to(0)),
            (Some("x.y.example"), Taken::Rejected, Taken::Rejected),
            (Some("z.y.example"), to(1), to(1)),
            (Some("z.z.y.example"), Taken::Nowhere, to(2)),
            (Some("y.example"), Taken::Nowhere, to(2)),
            (Some(".y.example"), Taken::Nowhere, to(2)),
            (None, Taken::Nowhere, to(2)),
        ] {
            assert_eq!(streams(some).find(name), expected, "{name:?}");
            let rest = [some, &[(&[][..], Some("p2"))]].concat();
            assert_eq!(streams(&rest).find(name), with_rest, "{name:?}");
        }
        assert_eq!(streams(some).all_alike(), None);
        assert_eq!(streams(&[(&[], Some("p3"))]).all_alike(), Some(to(3)));
        assert_eq!(streams(&[]).all_alike(), Some(Taken::Nowhere));
    }
}
