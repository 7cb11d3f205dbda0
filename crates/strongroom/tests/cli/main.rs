//! The `strongroom` binary as a user runs it, on real vaults, files and NBD clients.

mod bad_input;
mod common;
mod images;
mod keys;
mod life;
mod reference;
mod s3;
mod serving;
mod stopping;
mod streams;
mod words;
