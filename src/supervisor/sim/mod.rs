//! Tests of the supervisor as a whole: its behaviour step by step.

mod reload_tables;
mod stop_tables;
mod table;
