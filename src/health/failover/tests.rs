//! By table and by simulation: in any sequence of faults, words and reloads the promises hold.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules(mode: FailoverMode, failback: Failback, exclusive: bool) -> Rules {
    Rules { mode, failback, exclusive }
}

/// Tiers numbered from 0, each with who serves there.
fn tiers(serving: &[&[u64]]) -> Vec<Tier> {
    let numbered = (0..).zip(serving);
    numbered.map(|(number, ids)| Tier { number, serving: ids.to_vec() }).collect()
}

fn event(cause: Cause, from: u8, to: u8) -> Option<Event> {
    let place = |tier| Place { tier, backend: None };
    Some(Event { cause, from: place(from), to: place(to) })
}

#[test]
fn a_tier_that_dies_hands_over_at_once_and_takes_over_again_when_stable() {
    let rules = rules(FailoverMode::Automatic, Failback::After(30 * SECOND), false);
    let (both, one) = (tiers(&[&[1], &[2]]), tiers(&[&[], &[2]]));
    let mut machine = Machine::new(rules, &both);
    assert_eq!(machine.look(SECOND, &both), Step::default());
    assert_eq!(machine.look(2 * SECOND, &one).event, event(Cause::Failover, 0, 1));
    let back = machine.look(3 * SECOND, &both);
    assert_eq!((back.event, back.next), (None, Some(33 * SECOND)));
    // A flap begins the time anew.
    assert_eq!(machine.look(20 * SECOND, &one), Step::default());
    assert_eq!(machine.look(21 * SECOND, &both).next, Some(51 * SECOND));
    assert_eq!(machine.look(50 * SECOND, &both).event, None);
    assert_eq!(machine.look(51 * SECOND, &both).event, event(Cause::Failback, 1, 0));
    let none = tiers(&[&[], &[]]);
    assert_eq!(machine.look(60 * SECOND, &none).event, None);
    assert!(machine.has(Alarm::NoneServing) && machine.floor() == 0);
    assert_eq!(machine.look(61 * SECOND, &one).event, event(Cause::Failover, 0, 1));
}

#[test]
fn an_operators_switch_holds_until_his_word_or_until_the_tier_dies() {
    let rules = rules(FailoverMode::Automatic, Failback::Automatic, false);
    let all = tiers(&[&[1], &[2], &[3]]);
    let mut machine = Machine::new(rules, &all);
    let switched = machine.switch(SECOND, &all, None).expect("tier 1 serves");
    assert_eq!(switched.event, event(Cause::Switchover, 0, 1));
    assert_eq!(machine.look(3600 * SECOND, &all), Step::default());
    assert_eq!(machine.switch(SECOND, &all, Some(1)), Err(Refused::AlreadyThere));
    assert_eq!(machine.switch(SECOND, &all, Some(7)), Err(Refused::UnknownTier));
    let back = machine.back(3601 * SECOND, &all).expect("tier 0 serves");
    assert_eq!(back.event, event(Cause::Failback, 1, 0));
    assert_eq!(machine.back(3601 * SECOND, &all), Err(Refused::AlreadyThere));
    machine.switch(3602 * SECOND, &all, Some(1)).expect("tier 1 serves");
    // The best is stable: it takes over, not the one behind.
    let dead = machine.look(3603 * SECOND, &tiers(&[&[1], &[], &[3]]));
    assert_eq!(dead.event, event(Cause::Failover, 1, 0));
}

#[test]
fn what_an_operator_chose_is_alarmed_and_not_overridden() {
    let rules = rules(FailoverMode::Manual, Failback::Manual, false);
    let dead = tiers(&[&[], &[2]]);
    let mut machine = Machine::new(rules, &dead);
    assert_eq!(machine.look(SECOND, &dead), Step::default());
    assert!(machine.has(Alarm::ChosenDead) && !machine.has(Alarm::NoneServing));
    assert_eq!(machine.switch(SECOND, &dead, Some(0)), Err(Refused::AlreadyThere));
    let switched = machine.switch(SECOND, &dead, Some(1)).expect("it serves");
    assert_eq!(switched.event, event(Cause::Switchover, 0, 1));
    assert!(!machine.has(Alarm::ChosenDead));
}

#[test]
fn a_seat_is_left_everywhere_before_it_is_given_on() {
    let rules = rules(FailoverMode::Automatic, Failback::After(30 * SECOND), true);
    let (first, both, second) = (tiers(&[&[1]]), tiers(&[&[1, 2]]), tiers(&[&[2]]));
    let mut machine = Machine::new(rules, &first);
    assert_eq!(machine.look(SECOND, &first), Step::default());
    assert_eq!(machine.chosen(), Some(1));
    // Two claim it: the present one stays.
    assert_eq!(machine.look(2 * SECOND, &both), Step::default());
    assert!(machine.has(Alarm::Conflict) && machine.chosen() == Some(1));
    let lost = machine.look(3 * SECOND, &second);
    assert_eq!((lost.event, lost.leave), (None, Some(Leave::One(1))));
    assert_eq!(machine.chosen(), None);
    assert_eq!(machine.look(4 * SECOND, &both).leave, None);
    assert_eq!(machine.switch(4 * SECOND, &both, None), Err(Refused::Leaving));
    let place = |id| Place { tier: 0, backend: Some(id) };
    let moved = Event { cause: Cause::Failover, from: place(1), to: place(2) };
    assert_eq!(machine.left(5 * SECOND, &second).event, Some(moved));
    assert_eq!(machine.chosen(), Some(2));
    // A pool that becomes exclusive closes what it has first.
    machine.rule(Rules { exclusive: false, ..rules });
    assert_eq!(machine.rule(rules), Some(Leave::All));
    assert_eq!(machine.look(6 * SECOND, &both).event, None);
    assert_eq!(machine.chosen(), None);
    assert_eq!(machine.left(7 * SECOND, &both).event, None);
    assert_eq!(machine.chosen(), Some(1));
}

/// A pool as the simulation has it, and what it holds against the machine.
struct World {
    rng: fastrand::Rng,
    rules: Rules,
    tiers: Vec<Vec<u64>>,
    numbers: Vec<u8>,
    dead: Vec<u64>,
    now: Duration,
    machine: Machine,
    /// Since when each tier has served without a break, by number.
    since: Vec<(u8, Duration)>,
    /// Backends that may have connections, of an exclusive pool.
    connected: Vec<u64>,
    held: bool,
    told: String,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mode = match rng.u8(..4) {
            0 => FailoverMode::Manual,
            _ => FailoverMode::Automatic,
        };
        let failback = match rng.u8(..4) {
            0 => Failback::Automatic,
            1 => Failback::Manual,
            _ => Failback::After(rng.u32(1..60) * SECOND),
        };
        let rules = rules(mode, failback, rng.bool());
        let mut next = 0;
        let tiers: Vec<Vec<u64>> = (0..rng.usize(1..5))
            .map(|_| {
                let members = rng.u64(1..4);
                next += members;
                (next - members + 1..=next).collect()
            })
            .collect();
        let numbers = (0..tiers.len() as u8).map(|n| n * 2).collect();
        let machine = Machine::new(rules, &[Tier { number: 0, serving: Vec::new() }]);
        World {
            rng,
            rules,
            tiers,
            numbers,
            dead: Vec::new(),
            now: Duration::ZERO,
            machine,
            since: Vec::new(),
            connected: Vec::new(),
            held: false,
            told: format!("seed {seed} {rules:?}"),
        }
    }

    fn seen(&self) -> Vec<Tier> {
        let tiers = self.numbers.iter().zip(&self.tiers);
        let alive =
            |ids: &Vec<u64>| ids.iter().copied().filter(|id| !self.dead.contains(id)).collect();
        tiers.map(|(&number, ids)| Tier { number, serving: alive(ids) }).collect()
    }

    /// One step of the machine, held against everything that is promised.
    fn step(
        &mut self,
        what: &str,
        by_operator: bool,
        make: impl FnOnce(&mut Machine, Duration, &[Tier]) -> Step,
    ) -> Step {
        let seen = self.seen();
        let (floor, chosen) = (self.machine.floor(), self.machine.chosen());
        let serves = |number| find(&seen, number).is_some_and(|t| !t.serving.is_empty());
        self.since.retain(|(number, _)| serves(*number));
        for tier in seen.iter().filter(|tier| serves(tier.number)) {
            if !self.since.iter().any(|(number, _)| *number == tier.number) {
                self.since.push((tier.number, self.now));
            }
        }
        let step = make(&mut self.machine, self.now, &seen);
        let told = format!("{}, {what} at {:?}: {step:?}, {seen:?}", self.told, self.now);
        let (after, sits) = (self.machine.floor(), self.machine.chosen());
        // No move without its one event, and none that says something else.
        match step.event {
            Some(event) => {
                assert_eq!((event.from.tier, event.to.tier), (floor, after), "{told}");
                assert_eq!(event.to.backend, sits, "{told}");
                assert_ne!(event.from, event.to, "{told}");
            }
            None => assert_eq!(floor, after, "{told}"),
        }
        if self.rules.exclusive {
            if sits != chosen
                && let Some(id) = sits
            {
                assert!(self.connected.is_empty(), "{told}: two at once");
                self.connected.push(id);
            }
            assert!(chosen.is_none() || sits.is_none() || chosen == sits, "{told}");
        } else {
            assert_eq!((sits, step.leave), (None, None), "{told}");
        }
        self.judge(&step, by_operator, &told, &seen);
        step
    }

    fn judge(&mut self, step: &Step, by_operator: bool, told: &str, seen: &[Tier]) {
        let automatic = self.rules.mode == FailoverMode::Automatic;
        let any = seen.iter().any(|tier| !tier.serving.is_empty());
        let floor = self.machine.floor();
        if let Some(event) = step.event {
            let by_itself = event.cause == Cause::Failback && !by_operator;
            assert!(!(by_itself && self.held), "{told}: failback is held");
            let kept =
                event.cause == Cause::Switchover || event.cause == Cause::Reload && self.held;
            self.held = kept && floor > self.numbers[0];
            if by_itself {
                let stable = self.since.iter().find(|(number, _)| *number == floor);
                let stable = self.now - stable.expect(told).1;
                match self.rules.failback {
                    Failback::Automatic => {}
                    Failback::Manual => panic!("{told}: failback by itself"),
                    // Of an exclusive pool it was decided when the seat began to be left.
                    Failback::After(_) if self.rules.exclusive => {}
                    Failback::After(asked) => assert!(stable >= asked, "{told}: {stable:?}"),
                }
                assert!(automatic, "{told}");
            }
            assert!(
                automatic || by_operator || event.cause == Cause::Reload,
                "{told}: manual moves by itself"
            );
        }
        let leaving = matches!(self.machine.seat, Seat::Left { .. });
        if automatic && any && !leaving {
            let serves = match self.rules.exclusive {
                true => self.machine.chosen().is_some_and(|id| !self.dead.contains(&id)),
                false => find(seen, floor).is_some_and(|tier| !tier.serving.is_empty()),
            };
            assert!(serves, "{told}: what is in use serves nothing");
        }
        assert_eq!(self.machine.has(Alarm::NoneServing), !any, "{told}");
        assert!(!(automatic && self.machine.has(Alarm::ChosenDead)), "{told}");
    }

    fn look(&mut self, what: &str) -> Step {
        self.step(what, false, |machine, now, tiers| machine.look(now, tiers))
    }

    /// Time goes by, and what is due then is looked at.
    fn wait(&mut self, until: Duration) {
        let mut step = self.look("before a wait");
        let mut again = 0;
        while let Some(next) = step.next.filter(|next| *next <= until) {
            assert!(next >= self.now, "{}: {step:?} in the past", self.told);
            self.now = next;
            step = self.look("due");
            again += 1;
            assert!(again < 20, "{}: asks for ever: {step:?}", self.told);
        }
        self.now = until;
        assert_eq!(self.look("not due").event, None, "{}: not announced", self.told);
    }

    fn act(&mut self) {
        match self.rng.u8(..12) {
            0..5 => {
                let all: Vec<u64> = self.tiers.concat();
                let id = all[self.rng.usize(..all.len())];
                match self.dead.iter().position(|dead| *dead == id) {
                    Some(at) => drop(self.dead.remove(at)),
                    None => self.dead.push(id),
                }
                self.look("flip");
            }
            5..8 => {
                let until = self.now + self.rng.u32(..40_000) * SECOND / 1000;
                self.wait(until);
            }
            8 => self.close(),
            9 => {
                let to = self.rng.bool().then(|| self.rng.u8(..8));
                self.operate(|machine, now, tiers| machine.switch(now, tiers, to));
            }
            10 => self.operate(|machine, now, tiers| machine.back(now, tiers)),
            _ => self.reload(),
        }
    }

    /// All workers have closed what was to be closed.
    fn close(&mut self) {
        let Seat::Left { goal, .. } = self.machine.seat else { return };
        self.connected.clear();
        let by_operator = goal.cause != Cause::Failover;
        self.step("left", by_operator, |machine, now, tiers| machine.left(now, tiers));
        // His word ends a hold, whether or not it could be done.
        self.held &= !by_operator || self.machine.is_held();
    }

    fn operate(
        &mut self,
        word: impl FnOnce(&mut Machine, Duration, &[Tier]) -> Result<Step, Refused>,
    ) {
        let before = self.machine.floor();
        self.step("operator", true, |machine, now, tiers| {
            word(machine, now, tiers).unwrap_or_else(|_| machine.look(now, tiers))
        });
        if !self.machine.is_held() {
            self.held = false;
        }
        assert!(
            before == self.machine.floor() || !self.rules.exclusive || {
                self.machine.chosen().is_some()
            }
        );
    }

    /// A tier goes, comes or gets another number, or the rules change.
    fn reload(&mut self) {
        match self.rng.u8(..3) {
            0 if self.tiers.len() > 1 => {
                let at = self.rng.usize(..self.tiers.len());
                self.tiers.remove(at);
                self.numbers.remove(at);
            }
            1 => {
                let id = self.rng.u64(100..);
                self.tiers.push(vec![id]);
                self.numbers.push(self.numbers[self.numbers.len() - 1] + 1);
            }
            _ => {
                let exclusive = self.rng.bool();
                self.rules = Rules { exclusive, ..self.rules };
                if self.machine.rule(self.rules).is_some() {
                    self.connected = self.tiers.concat();
                } else if !exclusive {
                    self.connected.clear();
                }
            }
        }
        let all = self.tiers.concat();
        if self.machine.chosen().is_some_and(|id| !all.contains(&id)) {
            self.machine.gone();
        }
        self.look("reload");
    }
}

#[test]
fn in_any_sequence_of_faults_and_words_the_promises_hold() {
    let replay = std::env::var("EVENKEEL_SEED").is_ok();
    let seeds = if replay { 1 } else { 5_000 };
    let (mut moves, mut failbacks) = (0, 0);
    for seed in (0..seeds).map(|n| crate::health::seed() + n) {
        let mut world = World::new(seed);
        world.machine = Machine::new(world.rules, &world.seen());
        world.look("begin");
        for _ in 0..60 {
            let before = world.machine.floor();
            world.act();
            moves += u32::from(before != world.machine.floor());
        }
        // Faults stop: everything is well again.
        world.dead.clear();
        world.look("the end of faults");
        for _ in 0..3 {
            world.close();
            world.wait(world.now + 100 * SECOND);
        }
        if world.machine.is_held() || world.rules.failback == Failback::Manual {
            world.operate(|machine, now, tiers| machine.back(now, tiers));
            world.close();
        } else if world.rules.mode == FailoverMode::Automatic {
            failbacks += 1;
            assert_eq!(world.machine.floor(), world.numbers[0], "{}: not back", world.told);
        }
        assert!(!world.machine.has(Alarm::NoneServing), "{}", world.told);
    }
    assert!(replay || (moves > 10_000 && failbacks > 1_000), "{moves} {failbacks}");
}
