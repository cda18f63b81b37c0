//! Weights of seats, and what follows from them: an order, a table of buckets, a figure for fairness.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

/// What is known of one seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// May get new connections: its worker is ready, alive and not hung.
    pub eligible: bool,
    /// Connections that are open now.
    pub connections: u64,
    /// Event-loop utilisation in thousandths.
    pub busy: u32,
    /// Connections that wait in its accept queue.
    pub waiting: u32,
}

/// Sum of the weights, a seat: the finest step is a 64th of an equal share.
const FINE: u64 = 64;
/// No eligible seat gets less than this part of an equal share: a burst after a quiet time must not fall on one seat.
const LEAST_PART: u64 = 8;
/// Differences up to this many connections are no difference, even when nothing comes: an exact order would be disturbed
/// by its own last turn.
const EVEN: u64 = 1;
/// Weights within this many hundredths of an equal share are equal.
const NEAR: u64 = 10;
/// A change moves at least this many hundredths of the new connections, or it does not pay.
const PAYS: u64 = 5;
/// More than can be: what is multiplied stays in 64 bits.
const MANY: u64 = 1_000_000_000;
/// A loop this many thousandths busier than the mean is not busier: the figure is of wall-clock time, and rough.
const BUSY_SLACK: u32 = 250;

/// Decides who gets how much. It remembers smoothed figures and the last weights.
///
/// Integers only, so that a state that was written out and read again goes on with the same numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weigher {
    /// Smoothed utilisation a seat, in 64ths of a thousandth.
    busy: Vec<u32>,
    /// Smoothed connections between two calls, in thousandths.
    arrivals: u64,
    /// What was said last.
    last: Vec<u32>,
}

impl Weigher {
    /// Weights of the seats by what is open, waiting and busy; to be called a few times a second.
    ///
    /// `arrivals` is what all seats together got since the last call. 0 is "gets nothing"; the sum is at most 64 a
    /// seat, and one more a seat. `None`: what was said last still does, because a change would not pay. A seat that is
    /// not eligible gets 0 at once. If none is, all are equal: a connection has to wait somewhere.
    pub fn weigh(&mut self, seats: &[Seat], arrivals: u64) -> Option<Vec<u32>> {
        self.smooth(seats, arrivals);
        let weights = self.wanted(seats, arrivals);
        self.say(weights)
    }

    /// The same between two calls of [`weigh`](Self::weigh): who is eligible has changed, and nothing else is known.
    pub fn weigh_again(&mut self, seats: &[Seat]) -> Option<Vec<u32>> {
        self.busy.resize(seats.len(), 0);
        let weights = self.wanted(seats, 0);
        self.say(weights)
    }

    fn say(&mut self, weights: Vec<u32>) -> Option<Vec<u32>> {
        if !pays(&self.last, &weights) {
            return None;
        }
        self.last.clone_from(&weights);
        Some(weights)
    }

    fn smooth(&mut self, seats: &[Seat], arrivals: u64) {
        // A seat that is new, or back, begins at nothing: its predecessor's load is not its own, and the first figure is
        // that of its boot. In 64ths of a thousandth, or small differences would never be reached.
        self.busy.resize(seats.len(), 0);
        for (smooth, seat) in self.busy.iter_mut().zip(seats) {
            let now = seat.busy.min(1000) * 64;
            *smooth = if seat.eligible {
                (*smooth * 15 + now) / 16
            } else {
                0
            };
        }
        self.arrivals = u64::midpoint(self.arrivals, arrivals.min(MANY) * 1000);
    }

    fn wanted(&self, seats: &[Seat], arrivals: u64) -> Vec<u32> {
        let eligible: Vec<usize> = (0..seats.len()).filter(|i| seats[*i].eligible).collect();
        let mut weights = vec![0; seats.len()];
        if eligible.is_empty() {
            weights.fill(1);
            return weights;
        }
        let shares = self.shares(seats, &eligible, arrivals);
        for (seat, share) in eligible.iter().zip(shares) {
            weights[*seat] = share;
        }
        weights
    }

    /// Weights of the eligible seats: all 1, or about [`FINE`] each.
    fn shares(&self, seats: &[Seat], eligible: &[usize], arrivals: u64) -> Vec<u32> {
        let count = eligible.len() as u64;
        let open: Vec<u64> = eligible
            .iter()
            .map(|i| seats[*i].connections.min(MANY) + u64::from(seats[*i].waiting))
            .collect();
        let low = open.iter().min().copied().unwrap_or(0);
        let high = open.iter().max().copied().unwrap_or(0);
        // In thousandths of a connection, and never less than one a seat: the estimate lags behind a burst.
        let expected = self.arrivals.max(count * 1000);
        // Seats tell at different moments: what came meanwhile to one and is not told of another is no difference.
        let even = EVEN + 2 * self.arrivals.max(arrivals.min(MANY) * 1000) / (count * 1000);
        let mut parts: Vec<u64> = if high - low <= even {
            vec![expected / count; open.len()]
        } else {
            fill(&open, expected)
        };
        for (part, factor) in parts.iter_mut().zip(self.idle(eligible)) {
            *part = (*part).max(expected / count / LEAST_PART) * factor / 1000;
            *part = (*part).max(expected / count / LEAST_PART);
        }
        let sum: u64 = parts.iter().sum();
        let equal = parts
            .iter()
            .all(|part| (part * count * 100).abs_diff(sum * 100) <= sum * NEAR);
        if equal {
            return vec![1; parts.len()];
        }
        let weight = |part: &u64| part * count * FINE / sum;
        parts
            .iter()
            .map(|part| u32::try_from(weight(part)).unwrap_or(u32::MAX).max(1))
            .collect()
    }

    /// How much of its part a seat gets for its loop's sake, in thousandths: less the busier it is than the others.
    fn idle(&self, eligible: &[usize]) -> Vec<u64> {
        let busy = |i: &usize| (self.busy[*i] / 64).min(1000);
        let mean = eligible.iter().map(busy).sum::<u32>() / eligible.len() as u32;
        let room = |busy: u32| u64::from(1000_u32.saturating_sub(busy)) + 100;
        let most = room(mean + BUSY_SLACK);
        let factor = |i| (1000 * room(busy(i)) / most).min(1000);
        eligible.iter().map(factor).collect()
    }
}

/// Water on an uneven floor: how much of `amount` (thousandths) each seat gets, if it is poured over what is open.
fn fill(open: &[u64], amount: u64) -> Vec<u64> {
    let mut sorted = open.to_vec();
    sorted.sort_unstable();
    let mut level = 0;
    let mut below = 0;
    for (index, floor) in sorted.iter().enumerate() {
        below += floor * 1000;
        level = (amount + below) / (index as u64 + 1);
        if sorted
            .get(index + 1)
            .is_none_or(|next| level <= next * 1000)
        {
            break;
        }
    }
    open.iter()
        .map(|floor| level.saturating_sub(floor * 1000))
        .collect()
}

/// Whether the change from `before` to `after` is worth a system call.
fn pays(before: &[u32], after: &[u32]) -> bool {
    let zeros = |weights: &[u32]| weights.iter().map(|w| *w == 0).collect::<Vec<_>>();
    if zeros(before) != zeros(after) {
        return true;
    }
    let (sum, other) = (total(after), total(before));
    let equal = |weights: &[u32]| weights.iter().all(|w| *w <= 1);
    if sum == 0 || other == 0 || equal(before) != equal(after) {
        return before != after;
    }
    let moved: u64 = before
        .iter()
        .zip(after)
        .map(|(b, a)| (u64::from(*b) * sum).abs_diff(u64::from(*a) * other))
        .sum();
    // Each connection that moves is counted twice: where it goes, and where it came from.
    moved * 100 >= 2 * PAYS * sum * other
}

fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|w| u64::from(*w)).sum()
}

/// An order of seats that gives each its share, spread evenly: smooth weighted round robin.
///
/// At most `most` long; each seat's share of it differs from its share of the weights by less than one turn. Equal
/// weights give one exact turn. Empty, if no seat has a weight or `most` is 0.
pub fn schedule(weights: &[u32], most: usize) -> Vec<u32> {
    let turns = turns(weights, most);
    let length: i64 = turns.iter().sum();
    let mut credit = vec![0_i64; turns.len()];
    let mut order = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    for _ in 0..length {
        for (credit, turns) in credit.iter_mut().zip(&turns) {
            *credit += turns;
        }
        // Of equal ones the first. Somebody's credit is above 0, so nobody without turns is chosen.
        let next = (0..turns.len()).max_by_key(|seat| (credit[*seat], Reverse(*seat)));
        let Some(next) = next else { break };
        credit[next] -= length;
        order.push(next as u32);
    }
    order
}

/// How often each seat has its turn: the weights without their common divisor, or scaled by largest remainders.
fn turns(weights: &[u32], most: usize) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let sum = total(weights) / u64::from(divisor);
    let most = most as u64;
    if sum <= most {
        return weights.iter().map(|w| i64::from(w / divisor)).collect();
    }
    let sum = total(weights);
    let exact = |w: u32| (u128::from(w) * u128::from(most), u128::from(sum));
    let mut turns: Vec<i64> = vec![];
    let mut rests: Vec<(u128, usize)> = vec![];
    for (seat, weight) in weights.iter().enumerate() {
        let (part, whole) = exact(*weight);
        turns.push(i64::try_from(part / whole).unwrap_or(0));
        rests.push((part % whole, seat));
    }
    let given: i64 = turns.iter().sum();
    let left = most.saturating_sub(given.cast_unsigned()) as usize;
    // The largest rest first; of equal ones the first seat, so that the order is one and the same.
    rests.sort_by_key(|(rest, seat)| (Reverse(*rest), *seat));
    for (_, seat) in rests.into_iter().take(left) {
        turns[seat] += 1;
    }
    turns
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The seat of each of `count` buckets: of the eligible seats (of all, if none is) the one that draws the highest
/// number for the bucket. A seat that goes moves its own buckets only, and gets them back when it returns.
pub fn buckets(eligible: &[bool], count: usize) -> Vec<u32> {
    let any = eligible.contains(&true);
    let seats: Vec<u32> = (0..eligible.len())
        .filter(|seat| eligible[*seat] || !any)
        .map(|seat| seat as u32)
        .collect();
    (0..count as u32)
        .filter_map(|bucket| seats.iter().copied().max_by_key(|seat| draw(bucket, *seat)))
        .collect()
}

/// A number for a bucket and a seat that looks random: the finaliser of `SplitMix64`.
fn draw(bucket: u32, seat: u32) -> u64 {
    let mut z = (u64::from(bucket) << 32 | u64::from(seat)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The coefficient of variation: standard deviation over mean. 0 is perfectly even. `None` for fewer than two
/// shares, or if all are nothing.
pub fn fairness(shares: &[f64]) -> Option<f64> {
    let count = shares.len() as f64;
    let mean = shares.iter().sum::<f64>() / count;
    if shares.len() < 2 || mean <= 0.0 {
        return None;
    }
    let variance = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / count;
    Some(variance.sqrt() / mean)
}

#[cfg(test)]
mod tests;
