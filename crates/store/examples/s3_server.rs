//! The S3 server of the tests as a program: `s3_server DIRECTORY PORT`, over a directory whose directories are buckets, until it is
//! killed. Port 0: any. Prints its address.

use strongroom_store::objects::testing::S3Server;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, port] = arguments.as_slice() else {
        eprintln!("s3_server DIRECTORY PORT");
        std::process::exit(2);
    };
    let port = port.parse().expect("a port");
    let server = S3Server::start_at(std::path::Path::new(directory), port);
    println!("{}", server.endpoint());
    loop {
        std::thread::park();
    }
}
