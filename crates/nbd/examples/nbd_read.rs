//! Reads a whole export and says how fast that went:
//! `nbd_read URI [THREADS [REQUEST_KIB [CONNECTIONS]]]`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use strongroom_nbd::{Client, ConnectOptions, Error};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(uri) = arguments.first() else {
        eprintln!("usage: nbd_read URI [THREADS [REQUEST_KIB [CONNECTIONS]]]");
        std::process::exit(2);
    };
    let number = |place: usize, default: u64| match arguments.get(place).map(|text| text.parse()) {
        Some(Ok(number)) if number > 0 => number,
        Some(_) => {
            eprintln!("{:?} is not a number above 0", arguments[place]);
            std::process::exit(2);
        }
        None => default,
    };
    let (threads, request_bytes, connections) = (number(1, 4), number(2, 1024) * 1024, number(3, 1));
    let options = ConnectOptions::default();
    let clients =
        (0..connections).map(|_| Client::connect_uri(uri, &options)).collect::<Result<Vec<_>, _>>()?;
    let size = clients[0].size_bytes();
    let next = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|place| {
                let (client, next) = (&clients[(place % connections) as usize], &next);
                scope.spawn(move || -> Result<(), Error> {
                    let mut buf = vec![0; request_bytes as usize];
                    loop {
                        let offset = next.fetch_add(request_bytes, Ordering::Relaxed);
                        if offset >= size {
                            return Ok(());
                        }
                        let length = request_bytes.min(size - offset) as usize;
                        client.read_at(offset, &mut buf[..length])?;
                    }
                })
            })
            .collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{size} bytes in {seconds:.3} s: {:.0} MiB/s", size as f64 / seconds / 1048576.0);
    Ok(())
}
