//! Which losses a killed worker explains. Pure.

use std::collections::BTreeMap;

use rcluster_ledger::{Class, Report};

use super::drill::Kind;

/// What a dying peer does to a request that it has accepted.
pub(super) fn is_death(class: Class, tls: bool) -> bool {
    matches!(
        class,
        Class::FinBeforeByte | Class::RstBeforeByte | Class::Truncated
    ) || (tls && class == Class::ResetBeforeConnect)
}

/// Number of losses that are excused: those of the phase `kill` that look like a death, and of them no more than one a client for each kill.
pub(super) fn excused(report: &Report, clients: u32, kills: u64, tls: bool) -> u64 {
    let none = BTreeMap::new();
    let losses = report
        .phase(Kind::Kill.name())
        .map_or(&none, |phase| &phase.losses);
    count(losses, u64::from(clients) * kills, tls)
}

fn count(losses: &BTreeMap<Class, u64>, most: u64, tls: bool) -> u64 {
    let deaths = losses.iter().filter(|(class, _)| is_death(**class, tls));
    deaths.map(|(_, n)| n).sum::<u64>().min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deaths_and_only_as_many_as_were_under_way() {
        let losses = BTreeMap::from([
            (Class::RstBeforeByte, 3),
            (Class::Truncated, 2),
            (Class::Refused, 4),
            (Class::Status, 1),
            (Class::ResetBeforeConnect, 1),
        ]);
        assert_eq!(count(&losses, 16, false), 5);
        assert_eq!(count(&losses, 16, true), 6);
        assert_eq!(count(&losses, 4, false), 4);
        assert_eq!(count(&losses, 0, false), 0);
    }
}
