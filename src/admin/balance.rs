//! How connections and requests are shared, as status shows it.

use serde::{Deserialize, Serialize};

use rcluster_core::supervisor::Slot;

/// What one slot gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotShare {
    /// The slot.
    pub slot: Slot,
    /// Connections that are open now.
    pub connections: u64,
    /// Its part of all connections accepted so far, 0 to 1.
    pub accepted: f64,
    /// Its part of all requests answered so far, 0 to 1.
    pub requests: f64,
}

/// How evenly the slots share: the coefficient of variation (standard deviation over mean) of their figures. 0 is
/// exactly even; of four slots, one that has all makes 1.73. Absent where there is nothing to share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fairness {
    /// Of connections that are open now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<f64>,
    /// Of connections accepted so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<f64>,
    /// Of requests answered so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,
}

/// How connections reach the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BalanceStatus {
    /// `--balance`, as it is in force.
    pub mode: String,
    /// How evenly.
    pub fairness: Fairness,
    /// Each slot's part.
    pub shares: Vec<SlotShare>,
    /// Connections that the master accepted and a worker took from it.
    pub passed: u64,
    /// Connections that the master has accepted and no worker has taken yet.
    pub held: u64,
}
