//! Medians and spreads of a few rounds.

/// The samples of one measurement, one a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle value; NaN without samples.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Value at `q` in 0..=1, linear between neighbours; NaN without samples.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let at = q * last as f64;
        // `at` lies in 0..=last, so both are valid indices.
        #[allow(clippy::cast_sign_loss)]
        let (low, high) = (at.floor() as usize, at.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (at - at.floor())
    }

    /// Round by round: these over those. Rounds are interleaved, so drift of the machine cancels out.
    pub(crate) fn over(&self, other: &Self) -> Self {
        self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect()
    }

    /// `median (q1..q3)` with the given number of decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        format!(
            "{:.d$} ({:.d$}..{:.d$})",
            self.median(),
            self.quantile(0.25),
            self.quantile(0.75),
            d = decimals
        )
    }

    /// How far these samples lie from 1, as a share: the larger of the median's distance and half the distance
    /// between the quartiles. Made for ratios of two equal things, where all of it is noise.
    pub(crate) fn noise(&self) -> f64 {
        let spread = (self.quantile(0.75) - self.quantile(0.25)) / 2.0;
        spread.max((self.median() - 1.0).abs())
    }
}
