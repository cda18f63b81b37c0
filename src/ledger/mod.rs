//! The ledger: a load generator that accounts for every request.
