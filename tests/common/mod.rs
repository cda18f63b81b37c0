//! The harness of the black-box tests: the real binary, real Node, and a look at what is left behind.
//!
//! It must not know what a test proves; it starts, asks, waits and cleans up.

mod addr;
mod dead;
mod http;
mod launch;
mod master;
mod node;
mod process;
mod screen;
mod status;
mod wait;

pub(crate) use addr::Addr;
pub(crate) use dead::Dead;
pub(crate) use http::Conn;
pub(crate) use launch::{Ended, Launch, app, module, scratch};
pub(crate) use master::{Master, Stopped, field, list, pid_in};
pub(crate) use node::{Node, node_script};
pub(crate) use process::{
    Stat, backlog_of, can_be_somebody_else, fd_count, has_pending, is_root, kill, rss_kib, running,
    skip, state_of, status_field, tool,
};
pub(crate) use screen::Screen;
pub(crate) use status::{Status, Worker};
pub(crate) use wait::{BOOT, LONG, wait_until};

/// Turns `fn name(node: Node)` into one test for each of the five Node lines.
macro_rules! on_every_node {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            use crate::common::Node;
            #[test] fn node_18() { super::$name(Node::V18); }
            #[test] fn node_20() { super::$name(Node::V20); }
            #[test] fn node_22() { super::$name(Node::V22); }
            #[test] fn node_24() { super::$name(Node::V24); }
            #[test] fn node_26() { super::$name(Node::V26); }
        }
    )+ };
}
pub(crate) use on_every_node;

/// Turns `fn name(node: Node)` into one test for the oldest and one for the newest Node line.
macro_rules! on_oldest_and_newest_node {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            use crate::common::Node;
            #[test] fn node_18() { super::$name(Node::V18); }
            #[test] fn node_26() { super::$name(Node::V26); }
        }
    )+ };
}
pub(crate) use on_oldest_and_newest_node;

/// Turns `fn name(node: Node)` into one test for Node 20 and one for Node 24.
macro_rules! on_two_nodes {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            use crate::common::Node;
            #[test] fn node_20() { super::$name(Node::V20); }
            #[test] fn node_24() { super::$name(Node::V24); }
        }
    )+ };
}
pub(crate) use on_two_nodes;
