//! Points served over NBD, read by other programs.

use crate::common::{Home, MIB, same, send, tool};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

/// A serving `strongroom`; ended with the test.
struct Serving {
    child: Child,
    told: Value,
}

impl Serving {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut child = home
            .command(arguments.iter().copied().chain(["--json"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while out.read_line(&mut text).unwrap() > 0 && !text.ends_with("\n}\n") {}
        let told = serde_json::from_str(&text).unwrap_or_else(|e| {
            let mut words = String::new();
            let _ = child.kill();
            let _ = child.stderr.take().unwrap().read_to_string(&mut words);
            panic!("{e}: {text:?} {words}")
        });
        Self { child, told }
    }

    fn uri(&self) -> &str {
        self.told["exports"][0]["uri"].as_str().unwrap()
    }

    fn stop(mut self, signal: i32) -> Option<i32> {
        send(&self.child, signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_point_is_read_by_other_programs_without_restoring_it() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 24 * MIB, &[(0, 3 * MIB), (20 * MIB, MIB)], 1);
    let source = image.to_str().unwrap();
    home.ok(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    let socket = home.text("nbd.sock");
    let serving = Serving::start(
        &home,
        &["rescue", "point", "serve", "a@latest", "--vault", &vault, "--socket", &socket],
    );
    assert_eq!(serving.told["default"], "disk");
    let uri = serving.uri().to_owned();
    tool("nbdcopy", [&uri, &home.text("copied.raw")]);
    same(&home.path("copied.raw"), &image);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, &uri]);
    tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &uri, &home.text("converted.qcow2")]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", source, &home.text("converted.qcow2")]);
    // Who names no export gets the only disk.
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, &format!("nbd+unix:///?socket={socket}")]);
    let map = tool("nbdinfo", ["--map", "--totals", &uri]);
    let data = map.lines().find(|line| line.ends_with("data")).unwrap();
    assert!(data.contains(&(4 * MIB).to_string()), "{map}");
    assert!(tool("nbdinfo", [&uri]).contains("is_read_only: true"));

    // A second one is turned away, and the first goes on.
    home.fails(
        1,
        &["in use"],
        ["rescue", "point", "serve", "a@latest", "--vault", &vault, "--socket", &socket],
    );
    tool("nbdinfo", ["--size", &uri]);
    assert_eq!(serving.stop(libc::SIGINT), Some(0));
    assert!(!home.path("nbd.sock").exists());
    assert!(home.open_leases().is_empty(), "its lease is gone");

    let serving = Serving::start(
        &home,
        &["rescue", "point", "serve", "a@latest", "--vault", &vault, "--tcp", "127.0.0.1:0"],
    );
    assert!(serving.uri().starts_with("nbd://127.0.0.1:"), "{}", serving.told);
    assert_eq!(tool("nbdinfo", ["--size", serving.uri()]).trim(), (24 * MIB).to_string());
    assert_eq!(serving.stop(libc::SIGTERM), Some(0));
    home.fails(
        1,
        &["loopback"],
        ["rescue", "point", "serve", "a@latest", "--vault", &vault, "--tcp", "0.0.0.0:0"],
    );
    home.fails(2, &["--socket"], ["rescue", "point", "serve", "a@latest", "--vault", &vault]);
}
