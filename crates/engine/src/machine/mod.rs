//! Machines under libvirt: backing them up and restoring them as new ones.
