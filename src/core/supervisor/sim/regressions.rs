//! Schedules that break an invariant when the fix of that fault is taken back.
//!
//! They depend on every number that is drawn from the seed. So what is added to the world draws none in schedules that had none of
//! it (`seed % 11`, `World::looked_at_for`), and puts no event into the queue: otherwise they pass whatever is broken.

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

regressions! {
    a_step_goes_on_until_nothing_moves: 1, 300;
    an_atomic_switch_waits_no_second_min_uptime: 6, 300;
    processes_are_bounded_when_cut_ones_linger: 8, 300;
    over_the_cap_only_the_oldest_is_cut: 10, 300;
    restarts_stay_within_the_budget: 26, 300;
    the_old_generation_is_kept_up_while_held_ones_wait: 33, 300;
    unwanted_workers_do_not_pile_up: 43, 300;
    a_commit_waits_for_late_listeners: 110, 300;
    a_worker_that_is_restarted_after_a_stand_in_waits_for_its_backoff: 79961, 200;
    a_slot_that_came_back_after_a_stand_in_waits_for_its_backoff: 84500, 200;
    a_slot_that_a_rolling_reload_admits_again_waits_for_its_backoff: 97561, 200;
    a_parked_slot_that_came_back_after_a_stand_in_waits_for_its_backoff: 112_285, 200;
    a_spare_that_was_promoted_before_its_start_was_told_is_not_held: 10_019_440, 200;
    what_a_hung_worker_listens_on_is_covered_before_others_leave: 20_000_585, 200;
    a_spare_that_is_promoted_and_recycled_in_a_step_left_its_new_slot: 40_995_845, 200;
    a_doubt_of_the_boot_is_forgotten_when_it_is_ready: 60_022_278, 200;
    a_restart_after_an_atomic_switch_leaves_the_new_code_serving: 80_090_660, 200;
    seats_that_are_added_after_a_cut_do_not_make_it_wrong: 80_108_103, 200;
    who_has_just_been_succeeded_goes_where_a_reload_ends_parked: 30_041_874, 200;
    who_is_not_wanted_goes_with_the_one_that_stood_in_when_all_are_parked: 200_219_440, 200;
    a_rolling_reload_of_many_with_a_long_bake_comes_to_its_end: 200_484_318, 200;
    of_a_parked_fleet_those_that_hung_go_together_when_the_look_is_over: 300_632_005, 200;
    eighteen_slots_that_beat_ten_times_a_second_need_many_steps_for_a_reload: 300_392_268, 200;
    a_slot_that_is_added_after_an_atomic_switch_waits_for_others_that_boot: 6_002_342, 200;
    an_atomic_switch_waits_for_old_ones_that_are_too_many: 12_490_726_113_401_669_800, 200;
    a_commit_waits_for_old_ones_that_are_too_many: 8_001_071, 200;
    what_a_worker_opened_while_it_was_stopped_is_known_of_its_code: 6_003_447, 200;
    what_a_worker_told_late_is_known_of_its_code: 7_000_907, 200;
    an_app_that_says_ready_after_its_last_server_is_ready_in_time: 5_003_829, 200;
    a_slot_that_was_admitted_by_a_larger_surge_waits_for_others_that_boot: 7_311_540_028_194_035_669, 200;
    a_surge_of_fewer_workers_bounds_what_boots: 7_311_540_028_194_051_532, 200;
    a_successor_that_closes_a_server_has_a_moment_to_open_it_again: 7_311_540_028_194_234_837, 200;
}
