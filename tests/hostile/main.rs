//! What efq is given and cannot work with, in the ten groups of things that went wrong elsewhere: each case ends with
//! a documented exit code and one line, within bounds of memory and time, overwrites nothing and leaves nothing
//! behind. What is accepted in spite of all is written well-formed and finite.

mod config;
mod corpus;
mod depth;
#[cfg(unix)]
mod environment;
mod external;
mod names;
mod numbers;
mod operators;
mod samples;
mod sinks;
mod sizes;
mod state;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/survives.rs"]
mod survives;
mod wire;
