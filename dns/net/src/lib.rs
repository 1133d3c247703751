//! The sockets of the name server: UDP in batches, TCP and TLS in bounds, and QUIC by a library,
//! around [`cfgdns_core::respond`], and nothing else.
//!
//! ```text
//!                      ┌─ thread ─ recvmmsg ─► respond × n ─► sendmmsg     a core each,
//! address ─┬─ UDP ─────┼─ thread                                           SO_REUSEPORT
//!          │           └─ thread             ▲
//!          │                              Shared: the state, swapped at once
//!          │                                 ▼
//!          ├─ TCP ─ accept ─► table ─► connection ─► respond ─► output     a task each
//!          │                             ▲
//!          ├─ TLS ─ accept ─► table ─► handshake                           a task each
//!          │
//!          └─ QUIC ─ hickory-server ─► handler ─► respond ─► records ─► hickory-server
//! ```
//!
//! Who owns the server keeps the [`Shared`] state up to date, and asks for the [`Totals`].
//!
//! Invariants
//! - nothing that comes from the network ends a thread or makes memory grow without a bound, but
//!   for QUIC, which is for clients that one knows (`crate::quic` says what has none);
//! - a reply leaves from the address that was asked (RFC 2181 4.1);
//! - what was read is answered before the end, and after it no thread and no socket is left.

mod complaints;
mod counters;
mod listen;
mod quic;
mod server;
mod shared;
mod stop;
mod tcp;
mod tls;
mod udp;

pub use counters::{BATCH_SIZES, RCODES, Totals};
pub use listen::{BindError, Carrier, Listen, QuicListen, TcpLimits, TlsListen};
pub use server::Server;
pub use shared::{Shared, now};
pub use tls::SharedTls;
