//! What needs more than one module: the simulation, and hostile events.

pub(crate) mod hostile;
mod sim;
