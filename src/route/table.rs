//! A listener's routes, in the order of the file; the first that matches wins.
//!
//! Built once per snapshot. The order is kept by comparing places: `index` names candidates,
//! `matching` decides, the lowest place wins.

use std::sync::Arc;

use super::index::Index;
use super::matching::matches;
use super::rate::Limiter;
use super::{Action, Facts, PoolId, Route, Split};
use crate::config::model::{self, Name};

/// A route names a pool that is not there. `config::validate` leaves no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pool is named {0}")]
pub struct UnknownPool(pub Name);

/// A listener's routes.
#[derive(Debug)]
pub struct Table {
    routes: Box<[Route]>,
    index: Index,
}

impl Table {
    /// `pool` finds a pool's place in the snapshot that is being built.
    pub fn new(
        routes: &[model::Route],
        pool: &dyn Fn(&Name) -> Option<PoolId>,
    ) -> Result<Table, UnknownPool> {
        let mut index = Index::default();
        let mut built = Vec::with_capacity(routes.len());
        for (id, config) in routes.iter().enumerate() {
            index.insert(id, &config.matches);
            let rate_limit = config.rate_limit.clone().map(|limit| Arc::new(Limiter::new(limit)));
            let action = action(&config.action, pool)?;
            built.push(Route { action, config: config.clone(), rate_limit });
        }
        Ok(Table { routes: built.into(), index })
    }

    /// The first route that matches; `None` if none does.
    pub fn find(&self, facts: &Facts<'_>) -> Option<&Route> {
        let mut best = self.routes.len();
        self.index.candidates(facts.host, facts.path, |ids| {
            let mut earlier = ids.iter().copied().take_while(|&id| id < best);
            let found = earlier.find(|&id| self.matches(id, facts));
            best = found.unwrap_or(best);
        });
        self.routes.get(best)
    }

    /// Rate limits that stay as they are go on with what an earlier table's knew: those of routes that
    /// match the same.
    pub fn carry_rate_limits(&mut self, before: &Table) {
        for route in &mut self.routes {
            let mut same = before.routes.iter().filter(|old| {
                old.config.matches == route.config.matches
                    && old.config.rate_limit == route.config.rate_limit
            });
            if let Some(Route { rate_limit: Some(limiter), .. }) = same.next() {
                route.rate_limit = Some(limiter.clone());
            }
        }
    }

    /// In the order of the file.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn matches(&self, id: usize, facts: &Facts<'_>) -> bool {
        // The index holds places of this very list.
        matches(&self.routes[id].config.matches, facts)
    }
}

fn action(
    config: &model::Action,
    pool: &dyn Fn(&Name) -> Option<PoolId>,
) -> Result<Action, UnknownPool> {
    let find = |name: &Name| pool(name).ok_or_else(|| UnknownPool(name.clone()));
    Ok(match config {
        model::Action::Pool(name) => Action::Pool(find(name)?),
        model::Action::Split(parts) => {
            let mut weights = Vec::with_capacity(parts.len());
            for (name, weight) in parts {
                weights.push((find(name)?, *weight));
            }
            // The model's promise: at least one weight is above 0.
            Action::Split(Split::new(weights).expect("a split has a weight above 0"))
        }
        model::Action::Redirect { .. } | model::Action::RedirectHttps { .. } => Action::Redirect,
        model::Action::Respond { .. } => Action::Respond,
    })
}
