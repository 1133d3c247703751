//! `cfgsvcd`: one member of the group.

fn main() {}
