//! Active checks and real traffic that disagree about a backend, and for how long.
//!
//! A probe that passes while requests fail asks the wrong question; one that fails while requests are
//! answered is wrong, or has no way to the backend. Pure: what both say and `now` come in.

use std::time::Duration;

/// So long they have disagreed when it is worth an event.
pub const LONG: Duration = Duration::from_secs(30);

/// So long what traffic said last still counts: a quiet backend need not disagree anew each time.
const HEARD: Duration = Duration::from_secs(30);

/// What both say of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreement {
    /// What traffic said last, and when.
    traffic: Option<(bool, Duration)>,
    since: Option<Duration>,
    told: bool,
}

/// Worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They have disagreed for [`LONG`]. `passing`: what the probes say.
    Disagree { passing: bool },
    /// It was told that they did, and they no longer do.
    Agree,
}

impl Agreement {
    /// `passing` is what the check says, `None` without one; `traffic` what requests say now, `None` if
    /// there were none, or as many that went well as failed.
    pub fn observe(
        &mut self,
        passing: Option<bool>,
        traffic: Option<bool>,
        now: Duration,
    ) -> Option<Change> {
        if let Some(said) = traffic {
            self.traffic = Some((said, now));
        }
        let heard = self.traffic.filter(|&(_, at)| now.saturating_sub(at) <= HEARD);
        let disagree = passing.zip(heard).is_some_and(|(passing, (said, _))| passing != said);
        if !disagree {
            self.since = None;
            return std::mem::take(&mut self.told).then_some(Change::Agree);
        }
        let since = *self.since.get_or_insert(now);
        if self.told || now.saturating_sub(since) < LONG {
            return None;
        }
        self.told = true;
        passing.map(|passing| Change::Disagree { passing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_when_it_has_been_long_and_one_when_it_is_over() {
        let second = Duration::from_secs(1);
        for passing in [true, false] {
            let mut agreement = Agreement::default();
            let mut at = |seconds: u32, passing, traffic| {
                agreement.observe(passing, traffic, seconds * second)
            };
            let (says, against) = (Some(passing), Some(!passing));
            assert_eq!(at(0, says, says), None);
            assert_eq!(at(1, says, against), None);
            assert_eq!(at(20, says, None), None, "nothing new");
            assert_eq!(at(25, says, says), None, "they agree again");
            assert_eq!(at(30, says, against), None);
            assert_eq!(at(59, says, against), None);
            assert_eq!(at(60, says, against), Some(Change::Disagree { passing }));
            assert_eq!(at(80, says, against), None, "once");
            assert_eq!(at(81, against, against), Some(Change::Agree));
            assert_eq!(at(90, None, against), None, "there is no check");
            assert_eq!(at(200, says, None), None, "long since there was traffic");
        }
    }
}
