//! Schedules that once broke an invariant, by the fault that they found.

use super::schedules::play;

macro_rules! regressions {
    ($($name:ident: $seed:expr, $steps:expr;)*) => {$(
        #[test]
        fn $name() {
            if let Err(broken) = play($seed, $steps) {
                panic!("{broken}");
            }
        }
    )*};
}
