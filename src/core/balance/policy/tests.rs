//! Tables, properties, and a simulated day of arrivals.

use fastrand::Rng;
use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

fn seat(connections: u64) -> Seat {
    Seat {
        eligible: true,
        connections,
        ..Seat::default()
    }
}

fn seats(connections: &[u64]) -> Vec<Seat> {
    connections.iter().copied().map(seat).collect()
}

#[test]
fn what_is_even_stays_even() {
    let mut weigher = Weigher::default();
    let even = Some(vec![1, 1, 1, 1]);
    assert_eq!(weigher.weigh(&seats(&[5, 5, 5, 5]), 0), even);
    assert_eq!(weigher.weigh(&seats(&[6, 5, 5, 5]), 3), None);
    assert_eq!(weigher.weigh(&seats(&[900, 900, 901, 900]), 4000), None);
    // Short connections: what is open differs by what is on its way.
    assert_eq!(weigher.weigh(&seats(&[3, 9, 12, 7]), 4000), None);
}

#[test]
fn the_emptiest_gets_most_and_nobody_nothing() {
    let mut weigher = Weigher::default();
    let weights = weigher
        .weigh(&seats(&[16, 16, 10, 16]), 2)
        .expect("a change");
    assert!(weights[2] > 4 * weights[0], "{weights:?}");
    assert!(weights.iter().all(|w| *w > 0), "{weights:?}");
    assert!(weights.iter().sum::<u32>() <= 4 * 65, "{weights:?}");
    // A little more of the same does not pay; a little less does neither.
    assert_eq!(weigher.weigh(&seats(&[16, 16, 11, 16]), 2), None);
    assert_eq!(
        weigher.weigh(&seats(&[16, 17, 16, 16]), 2),
        Some(vec![1; 4])
    );
}

#[test]
fn who_is_not_eligible_gets_nothing_at_once() {
    let mut weigher = Weigher::default();
    let mut fleet = seats(&[4, 4, 4]);
    assert_eq!(weigher.weigh(&fleet, 0), Some(vec![1, 1, 1]));
    fleet[1].eligible = false;
    assert_eq!(weigher.weigh(&fleet, 0), Some(vec![1, 0, 1]));
    fleet[0].eligible = false;
    assert_eq!(weigher.weigh(&fleet, 0), Some(vec![0, 0, 1]));
    // Somewhere a connection has to wait.
    fleet[2].eligible = false;
    assert_eq!(weigher.weigh(&fleet, 0), Some(vec![1, 1, 1]));
    fleet[1].eligible = true;
    assert_eq!(weigher.weigh(&fleet, 0), Some(vec![0, 1, 0]));
    // Fewer seats are a change, and so are none.
    assert_eq!(weigher.weigh(&fleet[..1], 0), Some(vec![1]));
    assert_eq!(weigher.weigh(&[], 0), Some(vec![]));
}

#[test]
fn what_waits_counts_as_open() {
    let mut weigher = Weigher::default();
    let mut fleet = seats(&[4, 4]);
    fleet[0].waiting = 40;
    let weights = weigher.weigh(&fleet, 0).expect("a change");
    assert!(weights[1] > 4 * weights[0], "{weights:?}");
}

#[test]
fn a_busy_loop_gets_less_once_it_has_been_busy_for_a_while() {
    let mut weigher = Weigher::default();
    let mut fleet = seats(&[9, 9, 9, 9]);
    weigher.weigh(&fleet, 10);
    fleet[3].busy = 1000;
    // A second of it is a boot, or an accident.
    for _ in 0..8 {
        assert_eq!(weigher.weigh(&fleet, 10), None);
    }
    let changes: Vec<_> = (0..100).filter_map(|_| weigher.weigh(&fleet, 10)).collect();
    let last = changes.last().expect("a change");
    assert!(last[3] * 2 < last[0], "{changes:?}");
    assert!(last[3] > 0 && last[0] == last[1], "{changes:?}");
    // All equally busy are even.
    for seat in &mut fleet {
        seat.busy = 1000;
    }
    let changes: Vec<_> = (0..100).filter_map(|_| weigher.weigh(&fleet, 10)).collect();
    assert_eq!(changes.last(), Some(&vec![1; 4]), "{changes:?}");
    // A worker that takes the seat over is not blamed for the one before.
    fleet = seats(&[9, 9, 9, 9]);
    fleet[0].busy = 1000;
    (0..100).for_each(|_| drop(weigher.weigh(&fleet, 10)));
    fleet[0].eligible = false;
    assert_eq!(weigher.weigh(&fleet, 10), Some(vec![0, 1, 1, 1]));
    fleet[0] = seat(9);
    assert_eq!(weigher.weigh(&fleet, 10), Some(vec![1; 4]));
}

#[test]
fn a_weigher_goes_on_where_it_was_written_out() {
    let mut weigher = Weigher::default();
    weigher.weigh(&seats(&[1, 2, 30]), 17);
    let text = serde_json::to_string(&weigher).expect("written");
    let read: Weigher = serde_json::from_str(&text).expect("read");
    assert_eq!(weigher, read);
}

/// Where so many connections go that come evenly over so many calls and stay. The choice is random by weight. The
/// weigher sees what was open `late` calls ago.
fn arrive(total: u64, calls: u64, count: usize, late: usize, seed: u64) -> Vec<f64> {
    let mut random = Rng::with_seed(seed);
    let mut weigher = Weigher::default();
    let mut open = vec![0; count];
    let mut history = vec![open.clone(); late + 1];
    let mut weights = weigher.weigh(&seats(&open), 0).expect("the first");
    for call in 0..calls {
        let arrivals = total * (call + 1) / calls - total * call / calls;
        for _ in 0..arrivals {
            open[pick(&weights, &mut random)] += 1;
        }
        history.push(open.clone());
        let shown = seats(&history[history.len() - 1 - late]);
        if let Some(new) = weigher.weigh(&shown, arrivals) {
            weights = new;
        }
    }
    open.iter().map(|count| *count as f64).collect()
}

fn pick(weights: &[u32], random: &mut Rng) -> usize {
    let mut at = random.u32(0..weights.iter().sum());
    let mut seat = 0;
    while at >= weights[seat] {
        at -= weights[seat];
        seat += 1;
    }
    seat
}

/// The median of the unfairness over 200 seeds.
fn typical(run: impl Fn(u64) -> Vec<f64>) -> f64 {
    let mut figures: Vec<f64> = (0..200)
        .map(|seed| fairness(&run(seed)).expect("a figure"))
        .collect();
    figures.sort_by(f64::total_cmp);
    figures[100]
}

#[test]
fn connections_that_stay_are_spread_evenly_by_chance_and_weights() {
    // 64 over 2 s on 4 seats, weighed 10 and 5 times a second, with figures of now and of one call ago.
    for (calls, late, most) in [(20, 0, 0.08), (20, 1, 0.10), (10, 0, 0.09), (10, 1, 0.12)] {
        let cv = typical(|seed| arrive(64, calls, 4, late, seed));
        assert!(cv <= most, "{calls} calls, {late} late: {cv}");
    }
    // Chance alone: the figure that the weights have to beat.
    let chance = typical(|seed| {
        let mut random = Rng::with_seed(seed);
        let mut open = vec![0.0; 4];
        (0..64).for_each(|_| open[random.usize(0..4)] += 1.0);
        open
    });
    assert!(chance > 0.17, "{chance}");
}

#[test]
fn many_short_connections_are_spread_evenly_whatever_is_open() {
    let cv = typical(|seed| {
        let mut random = Rng::with_seed(seed);
        let mut weigher = Weigher::default();
        let mut served = vec![0.0; 4];
        let mut weights = vec![1; 4];
        for _ in 0..20 {
            // Each call sees the few that are open at its moment.
            let open: Vec<u64> = (0..4).map(|_| random.u64(0..16)).collect();
            if let Some(new) = weigher.weigh(&seats(&open), 1000) {
                weights = new;
            }
            (0..1000).for_each(|_| served[pick(&weights, &mut random)] += 1.0);
        }
        served
    });
    assert!(cv <= 0.02, "{cv}");
}

#[test]
fn a_seat_that_comes_back_empty_fills_without_being_flooded() {
    let mut random = Rng::with_seed(7);
    let mut weigher = Weigher::default();
    let mut open = [100_u64, 0, 100, 100];
    let mut first = 0;
    for call in 0..60 {
        let weights = weigher
            .weigh(&seats(&open), 10)
            .unwrap_or(weigher.last.clone());
        (0..10).for_each(|_| open[pick(&weights, &mut random)] += 1);
        // Others close theirs evenly.
        (0..10).for_each(|_| {
            let seat = random.usize(0..4);
            open[seat] = open[seat].saturating_sub(1);
        });
        if call == 0 {
            first = open[1];
        }
    }
    assert!(first <= 10, "{open:?}");
    let shares = open.map(|count| count as f64);
    assert!(fairness(&shares).expect("a figure") < 0.12, "{open:?}");
}

#[test]
fn an_order_spreads_turns() {
    assert_eq!(schedule(&[1, 1, 1, 1], 64), [0, 1, 2, 3]);
    assert_eq!(schedule(&[7, 7, 0, 7], 64), [0, 1, 3]);
    assert_eq!(schedule(&[5, 1, 1], 64), [0, 0, 1, 0, 2, 0, 0]);
    assert!(schedule(&[0, 0], 64).is_empty());
    assert!(schedule(&[3, 4], 0).is_empty());
    assert!(schedule(&[], 9).is_empty());
    assert_eq!(schedule(&[u32::MAX, 1], 8), [0; 8]);
}

#[test]
fn figures_for_fairness() {
    let figure = |shares: &[f64]| fairness(shares).map(|cv| (cv * 100.0).round() / 100.0);
    assert_eq!(figure(&[]), None);
    assert_eq!(figure(&[3.0]), None);
    assert_eq!(figure(&[0.0, 0.0]), None);
    assert_eq!(figure(&[16.0; 4]), Some(0.0));
    assert_eq!(figure(&[37.0, 19.0, 8.0, 0.0]), Some(0.87));
}

fn fleet() -> impl Strategy<Value = Vec<Seat>> {
    let seat = (any::<bool>(), 0..2000_u64, 0..1500_u32, 0..5000_u32).prop_map(
        |(eligible, connections, busy, waiting)| Seat {
            eligible,
            connections,
            busy,
            waiting,
        },
    );
    prop::collection::vec(seat, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    #[test]
    fn weights_go_to_eligible_seats_and_only_to_them(calls in prop::collection::vec((fleet(), 0..u64::MAX), 1..8)) {
        let mut weigher = Weigher::default();
        for (fleet, arrivals) in calls {
            let weights = weigher.weigh(&fleet, arrivals).unwrap_or(weigher.last.clone());
            let none = fleet.iter().all(|seat| !seat.eligible);
            prop_assert_eq!(weights.len(), fleet.len());
            for (seat, weight) in fleet.iter().zip(&weights) {
                prop_assert_eq!(*weight > 0, seat.eligible || none);
            }
            prop_assert!(weights.iter().sum::<u32>() <= 65 * fleet.len() as u32);
        }
    }

    #[test]
    fn an_order_keeps_the_weights(weights in prop::collection::vec(0..300_u32, 1..20), most in 1..500_usize) {
        let order = schedule(&weights, most);
        let sum: u32 = weights.iter().sum();
        prop_assert!(order.len() <= most);
        prop_assert_eq!(order.is_empty(), sum == 0);
        for (seat, weight) in weights.iter().enumerate() {
            let turns = order.iter().filter(|s| **s as usize == seat).count();
            let exact = f64::from(*weight) / f64::from(sum.max(1)) * order.len() as f64;
            prop_assert!((turns as f64 - exact).abs() < 1.0, "seat {}: {} of {}", seat, turns, exact);
        }
    }

    #[test]
    fn only_the_buckets_of_a_lost_seat_move(mut eligible in prop::collection::vec(any::<bool>(), 1..20), lost: usize) {
        let lost = lost % eligible.len();
        eligible[lost] = true;
        let before = buckets(&eligible, 256);
        eligible[lost] = false;
        let without = buckets(&eligible, 256);
        prop_assert_eq!(before.len(), 256);
        if eligible.contains(&true) {
            for (old, new) in before.iter().zip(&without) {
                prop_assert!(eligible[*new as usize]);
                prop_assert!(old == new || *old as usize == lost);
            }
        }
        eligible[lost] = true;
        prop_assert_eq!(buckets(&eligible, 256), before);
    }

    #[test]
    fn buckets_are_spread_over_the_seats(seats in 2..17_usize) {
        let table = buckets(&vec![true; seats], 4096);
        for seat in 0..seats {
            let part = table.iter().filter(|s| **s as usize == seat).count();
            prop_assert!(part.abs_diff(4096 / seats) < 4096 / seats / 3, "{} of {}", part, 4096 / seats);
        }
    }
}
