//! Giving space back.

pub mod condemned;
