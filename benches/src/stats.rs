//! Summaries of repeated measurements.

use serde::{Deserialize, Serialize};

/// What is told of a series of figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) runs: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        Some(Self {
            runs: sorted.len(),
            min: sorted[0],
            median: (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0,
            // Nearest rank: the least value that 99 % of all do not exceed.
            p99: sorted[(sorted.len() * 99).div_ceil(100) - 1],
            max: sorted[last],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn medians_of_odd_and_even_series() {
        let odd = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (odd.min, odd.median, odd.p99, odd.max),
            (1.0, 2.0, 3.0, 3.0)
        );
        let even = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((even.median, even.runs), (2.5, 4));
    }

    #[test]
    fn p99_of_many_is_not_the_maximum() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Summary::of(&values).unwrap().p99, 198.0);
    }
}
