//! Serves a file read-only until killed: `nbd_serve FILE SOCKET`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use strongroom_nbd::{Export, Server};

struct FileExport {
    file: File,
    size_bytes: u64,
}

impl Export for FileExport {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset_bytes)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, socket] = &arguments[..] else {
        return Err("usage: nbd_serve FILE SOCKET".into());
    };
    let file = File::open(path)?;
    let size_bytes = file.metadata()?.len();
    let server = Server::new().export("", FileExport { file, size_bytes })?.listen_unix(socket)?;
    println!("{}", server.uri(""));
    loop {
        std::thread::park();
    }
}
