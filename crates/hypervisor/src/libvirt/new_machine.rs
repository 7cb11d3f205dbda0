//! The definition of a machine that is made anew, with firmware that fits its variables.

use super::conn::Conn;
use super::definition::parse;
use super::firmware::{ask, is_absent, is_chosen_by_libvirt, loader_path, os, size_of};
use super::rewrite::{self, Rewritten};
use crate::error::Result;
use crate::model::RestoreMachineRequest;
use crate::text::machine;
use std::sync::Arc;
use uuid::Uuid;

/// The definition of a new machine: one that gives it firmware which its variables were made for.
pub fn definition(conn: &Arc<Conn>, request: &RestoreMachineRequest, uuid: Uuid) -> Result<Rewritten> {
    let mut plain = rewrite::rewrite(request, uuid)?;
    let document = parse(&machine(&request.new_name), &plain.xml)?;
    let Some(os) = os(&document) else { return Ok(plain) };
    if let Some(loader) = loader_path(os).filter(|l| is_absent(l)) {
        plain.losses.push(format!(
            "its firmware {} is not on this host: it does not start before that is installed (package ovmf, or edk2-ovmf)",
            loader.display()
        ));
        return Ok(plain);
    }
    let (true, Some(_), Some(known)) = (is_chosen_by_libvirt(os), &request.nvram, &request.firmware) else {
        return Ok(plain);
    };
    let Some(chosen) = ask(conn, &plain.xml).and_then(|c| c.loader).filter(|l| *l != known.loader) else {
        return Ok(plain);
    };
    if size_of(&known.loader) == Some(known.loader_bytes) {
        return rewrite::rewrite_pinned(request, uuid, known);
    }
    if size_of(&chosen) != Some(known.loader_bytes) {
        plain.losses.push(format!(
            "its UEFI variables were made for the firmware {}, which is not on this host; libvirt chooses {}, with which it may not start",
            known.loader.display(),
            chosen.display()
        ));
    }
    Ok(plain)
}
