//! Prints the extents of an export in one metadata context, and how long asking took:
//! `nbd_map URI [CONTEXT]`.

use std::time::Instant;

use strongroom_nbd::{BASE_ALLOCATION, Client, ConnectOptions, Error};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let Some(uri) = arguments.next() else {
        eprintln!("usage: nbd_map URI [CONTEXT]");
        std::process::exit(2);
    };
    let context = arguments.next().unwrap_or_else(|| BASE_ALLOCATION.to_owned());
    let options = ConnectOptions { meta_contexts: vec![context.clone()], ..ConnectOptions::default() };
    let client = Client::connect_uri(&uri, &options)?;
    let started = Instant::now();
    let mut count = 0;
    client.map(&context, 0, client.size_bytes(), |extent| {
        count += 1;
        println!("{:>16} {:>16} {:#x}", extent.offset_bytes, extent.length_bytes, extent.flags);
    })?;
    eprintln!("{count} extents of {} bytes in {:?}", client.size_bytes(), started.elapsed());
    Ok(())
}
