//! Random schedules: in every `cargo test`, by the million when asked.

use proptest::{prelude::*, test_runner::RngSeed};

use super::world::World;

/// Plays one schedule; the error tells all that a reader needs.
pub(super) fn play(seed: u64, steps: usize) -> Result<(), String> {
    let mut world = World::new(seed);
    world.play(steps).map_err(|broken| {
        format!(
            "{broken}\n{}\nlast steps:\n{}\nRCLUSTER_SIM_SEED={seed} RCLUSTER_SIM_STEPS={steps}",
            world.setting(),
            world.watch.trace()
        )
    })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: not a number: {text}")),
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 800,
        failure_persistence: None,
        // The same schedules in every run; new ones by RCLUSTER_SIM_SCHEDULES.
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    /// Shrinks to the fewest steps that still fail.
    #[test]
    fn random_schedules_keep_every_invariant(
        seed in any::<u64>().no_shrink(),
        steps in 1usize..200,
    ) {
        play(seed, steps).map_err(TestCaseError::fail)?;
    }
}

/// A fixed set of schedules, so that every run of the tests sees the same ones;
/// more with `RCLUSTER_SIM_SCHEDULES`, from `RCLUSTER_SIM_SEED` on.
#[test]
#[expect(
    clippy::disallowed_macros,
    reason = "a failure can be repeated only with its seed"
)]
fn nightly() {
    let one = number("RCLUSTER_SIM_SEED");
    let count = number("RCLUSTER_SIM_SCHEDULES");
    let steps = number("RCLUSTER_SIM_STEPS").unwrap_or(200) as usize;
    let first = one.unwrap_or_else(|| {
        if count.is_some() {
            fastrand::u64(..)
        } else {
            0
        }
    });
    let count = count.unwrap_or(if one.is_some() { 1 } else { 400 });
    eprintln!("schedules {first} to {first} + {count}, {steps} steps each");
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        if let Err(broken) = play(seed, steps) {
            panic!("{broken}");
        }
    }
}
