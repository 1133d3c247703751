//! Hosts with agents: who serves a role, and what goes wrong around that.
//!
//! ```text
//!   operator ──┐ calls     ┌──────────── one machine: a clock of its own rate ────────────┐
//!              ▼           │                                                              │
//!   members ◄── calls ─────┤ agent: role::core (real) in a twin of its shell ─ verdicts   │
//!           ── verdicts ──►│   │ deadlines, stop   ▲ gone                       on disk   │
//!                          │   ▼                   │                                      │
//!                          │ guard: guard::core (real) ─► program ── writes to a resource │
//!                          └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Agent, guard and program are processes of their own: each can end, and the agent can stand
//! still, without the others. A machine that loses power loses all three, and of its disk what was
//! not synced.
//!
//! Twins, because the real ones are bound to sockets and files: [`group`] of the client library and
//! of `cfgsvc::grpc::roles`, [`agent`] of the loop of `cfgagent run`, [`guard`] of the guard's
//! process.

pub mod agent;
pub mod calls;
pub mod data;
pub mod disk;
pub mod faults;
pub mod group;
pub mod guard;
pub mod held;
pub mod machine;
pub mod operator;
pub mod plan;
pub mod resource;
pub mod restore;
pub mod sync;
pub mod view;
