//! The ready scripts for PostgreSQL, with the real database under load: what is caught by the freeze starts by itself and has
//! every transaction that was committed before.

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PRE: &str = include_str!("../../../packaging/guest/postgresql/pre.sh");
const POST: &str = include_str!("../../../packaging/guest/postgresql/post.sh");
const CONFIG: &str = include_str!("../../../packaging/guest/postgresql/VMSnapshotScriptPluginConfig.json");

/// The newest version's programs.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("this test needs PostgreSQL: run scripts/install-deps --test")
        .flatten()
        .map(|e| e.path().join("bin"))
        .collect();
    found.sort();
    found.pop().unwrap()
}

fn as_postgres(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).args(arguments).current_dir("/");
    command
}

/// A cluster in a directory; its socket lies there too. Stopped by its drop.
struct Cluster {
    programs: PathBuf,
    data: String,
    sockets: String,
}

impl Cluster {
    fn start(programs: &Path, data: &str, sockets: &str) -> Self {
        let options = format!("-p 5432 -k {sockets} -c listen_addresses=''");
        let log = format!("{sockets}/log");
        let started =
            as_postgres(&programs.join("pg_ctl"), &["-D", data, "-o", &options, "-l", &log, "-w", "start"])
                .stdout(Stdio::null())
                .status()
                .unwrap();
        assert!(started.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
        Self { programs: programs.into(), data: data.into(), sockets: sockets.into() }
    }

    fn ask(&self, query: &str) -> String {
        let psql = self.programs.join("psql");
        let output =
            as_postgres(&psql, &["-h", &self.sockets, "-X", "-q", "-t", "-A", "-d", "postgres", "-c", query])
                .output()
                .unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn bench(&self, arguments: &[&str]) -> Child {
        let all = [&["-h", &self.sockets], arguments, &["postgres"]].concat();
        let mut command = as_postgres(&self.programs.join("pgbench"), &all);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stop = ["-D", self.data.as_str(), "-m", "immediate", "-w", "stop"];
        let _ = as_postgres(&self.programs.join("pg_ctl"), &stop).stdout(Stdio::null()).status();
    }
}

fn owned_by_postgres(path: &Path) -> String {
    std::fs::create_dir_all(path).unwrap();
    run("chown", &["postgres", path.to_str().unwrap()]);
    path.to_str().unwrap().to_owned()
}

#[test]
fn committed_before_is_there_after() {
    let programs = programs();
    let lab = Lab::new();
    let disk = Disk::sized(400);
    let mount = Path::new(disk.mount());
    let data = owned_by_postgres(&mount.join("data"));
    let sockets = owned_by_postgres(&lab.path().join("sockets"));
    let made = as_postgres(&programs.join("initdb"), &["-D", &data, "-A", "trust"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let cluster = Cluster::start(&programs, &data, &sockets);
    assert!(cluster.bench(&["-i", "-q"]).wait().unwrap().success());
    cluster.ask("CREATE TABLE seen (n serial PRIMARY KEY)");

    lab.write("pre.sh", PRE, 0o700);
    lab.write("post.sh", POST, 0o700);
    let here = lab.path().to_str().unwrap();
    let parameters = format!("\"preScriptParams\": [\"5432\", \"{sockets}\"]");
    let config = CONFIG
        .replace("/etc/azure", here)
        .replace("\"preScriptParams\": []", &parameters)
        .replace("\"postScriptParams\": []", &parameters.replace("pre", "post"));
    lab.write("config.json", &config, 0o600);
    lab.write("insert.sql", "INSERT INTO seen DEFAULT VALUES;\n", 0o644);

    let insert = lab.path().join("insert.sql");
    let insert = format!("{}@1", insert.display());
    let mut load = cluster.bench(&["-c", "4", "-T", "60", "-f", &insert, "-b", "tpcb-like@3"]);
    wait_until("there is load", || cluster.ask("SELECT count(*) > 50 FROM seen") == "t");
    let prepared = lab.prepare("s");
    assert_eq!(prepared["ready"], true, "{prepared}");
    let committed: u64 = cluster.ask("SELECT max(n) FROM seen").parse().unwrap();
    let mut hold = Holding::new(disk.mount(), 20);
    let copy = lab.path().join("copy");
    run("cp", &["--sparse=always", disk.image().to_str().unwrap(), copy.to_str().unwrap()]);
    assert_eq!(hold.end()["expired"], false);
    let finished = lab.finish("s");
    assert_eq!(finished["post"]["exit_code"], 0, "{finished}");
    assert!(load.try_wait().unwrap().is_none(), "the load went on");
    let _ = load.kill();
    let _ = load.wait();
    drop(cluster);

    // What was caught: no journal is needed, the database starts by itself, and is whole.
    run("e2fsck", &["-fn", copy.to_str().unwrap()]);
    let restored = Disk::of(&copy);
    let data = format!("{}/data", restored.mount());
    std::fs::remove_file(format!("{data}/postmaster.pid")).unwrap();
    let cluster = Cluster::start(&programs, &data, &sockets);
    let there: u64 = cluster.ask("SELECT max(n) FROM seen").parse().unwrap();
    assert!(there >= committed, "{there} of {committed}");
    let sums =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
        AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(tbalance) FROM pgbench_tellers)";
    assert_eq!(cluster.ask(sums), "t");
    drop(cluster);

    // One that does not answer fails the pre-script.
    let prepared = lab.prepare("t");
    assert_eq!(prepared["problem"]["code"], "pre-script-failed", "{prepared}");
    assert!(
        prepared["problem"]["output"].as_str().unwrap().contains("did not make its checkpoint"),
        "{prepared}"
    );
    lab.finish("t");
}
