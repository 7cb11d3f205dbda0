//! What the hosts have: machines, and places that disks can be restored to.

pub mod machines;
pub mod places;
