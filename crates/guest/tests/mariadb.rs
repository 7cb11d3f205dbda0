//! The ready scripts for MariaDB, with the real database under load: while they hold it nothing is committed, and what is caught
//! then starts by itself and is exactly that, also in tables without transactions.

mod common;

use common::*;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PRE: &str = include_str!("../../../packaging/guest/mariadb/pre.sh");
const POST: &str = include_str!("../../../packaging/guest/mariadb/post.sh");
const CONFIG: &str = include_str!("../../../packaging/guest/mariadb/VMSnapshotScriptPluginConfig.json");
const MISSING: &str = "this test needs MariaDB: run scripts/install-deps --test";

/// A server over a directory; killed by its drop.
struct Server {
    child: Child,
    socket: String,
}

impl Server {
    fn start(lab: &Lab, data: &str) -> Self {
        let socket = lab.path().join("mariadb.sock").to_str().unwrap().to_owned();
        let log = std::fs::File::create(lab.path().join("mariadb.log")).unwrap();
        let child = Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--skip-networking", "--innodb-buffer-pool-size=32M"])
            .arg(format!("--datadir={data}"))
            .arg(format!("--socket={socket}"))
            .arg(format!("--pid-file={}", lab.path().join("mariadb.pid").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect(MISSING);
        let server = Self { child, socket };
        wait_until("MariaDB answers", || {
            server.client().args(["-e", "SELECT 1"]).output().unwrap().status.success()
        });
        server
    }

    fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-N", "-B", "-S", &self.socket]).stdin(Stdio::null());
        command
    }

    fn ask(&self, query: &str) -> String {
        let output = self.client().args(["-e", query]).output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Sessions that write until they are ended: with transactions over two tables, and into a table without.
    fn load(&self, lab: &Lab) -> Load {
        let start = |name: &str, statements: &str| {
            lab.write(name, &format!("{statements}\n").repeat(100_000), 0o600);
            let input = std::fs::File::open(lab.path().join(name)).unwrap();
            let mut command = self.client();
            command.arg("bank").stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let both = "BEGIN; INSERT INTO seen VALUES (); INSERT INTO again VALUES (LAST_INSERT_ID()); COMMIT;";
        Load(vec![start("a.sql", both), start("b.sql", both), start("c.sql", "INSERT INTO plain VALUES ();")])
    }

    /// What is in the three tables.
    fn counts(&self) -> String {
        self.ask("SELECT (SELECT count(*) FROM bank.seen), (SELECT count(*) FROM bank.again), (SELECT count(*) FROM bank.plain)")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Load(Vec<Child>);

impl Load {
    fn runs(&mut self) -> bool {
        self.0.iter_mut().all(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn what_is_caught_is_what_was_committed() {
    let lab = Lab::new();
    let disk = Disk::sized(600);
    let data = Path::new(disk.mount()).join("data").to_str().unwrap().to_owned();
    let made = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=socket"])
        .args(["--auth-root-socket-user=root", "--skip-test-db", &format!("--datadir={data}")])
        .output()
        .expect(MISSING);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let server = Server::start(&lab, &data);
    server.ask(
        "CREATE DATABASE bank; USE bank;
         CREATE TABLE seen (n INT PRIMARY KEY AUTO_INCREMENT) ENGINE=InnoDB;
         CREATE TABLE again (n INT PRIMARY KEY) ENGINE=InnoDB;
         CREATE TABLE plain (n INT PRIMARY KEY AUTO_INCREMENT) ENGINE=MyISAM;",
    );
    lab.write("pre.sh", PRE, 0o700);
    lab.write("post.sh", POST, 0o700);
    let configure = |seconds: &str| {
        let parameters = format!("\"preScriptParams\": [\"{}\", \"{seconds}\"]", server.socket);
        let config = CONFIG.replace("/etc/azure", lab.path().to_str().unwrap());
        lab.write("config.json", &config.replace("\"preScriptParams\": []", &parameters), 0o600);
    };
    configure("100");

    let mut load = server.load(&lab);
    wait_until("there is load", || server.ask("SELECT count(*) > 200 FROM bank.seen") == "1");
    let prepared = lab.prepare("s");
    assert_eq!(prepared["ready"], true, "{prepared}");
    let counts = server.counts();
    let mut hold = Holding::new(disk.mount(), 20);
    let copy = lab.path().join("copy");
    run("cp", &["--sparse=always", disk.image().to_str().unwrap(), copy.to_str().unwrap()]);
    assert_eq!(hold.end()["expired"], false);
    assert_eq!(server.counts(), counts, "nothing is committed while it is held");
    let finished = lab.finish("s");
    assert_eq!(finished["post"]["exit_code"], 0, "{finished}");
    assert_eq!(finished["problem"], serde_json::Value::Null, "{finished}");
    wait_until("it goes on", || server.counts() != counts);
    assert!(load.runs());

    // The lock ends by itself: then the snapshot has not earned it.
    configure("2");
    let prepared = lab.prepare("t");
    assert_eq!(prepared["ready"], true, "{prepared}");
    let counts_then = server.counts();
    wait_until("it goes on by itself", || server.counts() != counts_then);
    let finished = lab.finish("t");
    assert_eq!(finished["problem"]["code"], "post-script-failed", "{finished}");
    assert!(finished["problem"]["output"].as_str().unwrap().contains("was lost"), "{finished}");
    drop(load);
    drop(server);

    // What was caught starts by itself, and is whole.
    run("e2fsck", &["-fn", copy.to_str().unwrap()]);
    let restored = Disk::of(&copy);
    let server = Server::start(&lab, &format!("{}/data", restored.mount()));
    assert_eq!(server.counts(), counts);
    assert_eq!(server.ask("CHECK TABLE bank.seen, bank.again, bank.plain").matches("\tOK").count(), 3);
    drop(server);

    // One that does not answer fails the pre-script, and leaves nothing for the post-script.
    let prepared = lab.prepare("u");
    assert_eq!(prepared["problem"]["code"], "pre-script-failed", "{prepared}");
    assert!(prepared["problem"]["output"].as_str().unwrap().contains("does not answer"), "{prepared}");
    assert_eq!(lab.finish("u")["problem"], serde_json::Value::Null);
}
