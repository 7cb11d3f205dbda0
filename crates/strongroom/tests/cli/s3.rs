//! A vault in an S3 bucket.

use crate::common::{Home, MIB, change, same, send};
use std::process::Stdio;
use std::time::{Duration, Instant};
use strongroom_store::objects::testing::{Asked, Refuse, S3Server};

fn home_at(server: &S3Server) -> Home {
    let mut home = Home::new();
    home.environment =
        server.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    home
}

/// Commands that wait for a store which does not answer end as soon as they are told to.
#[test]
fn a_store_that_hangs_does_not_hold_a_command_that_is_stopped() {
    let server = S3Server::start();
    let home = home_at(&server);
    let vault = server.location("one");
    home.ok(["rescue", "vault", "init", &vault]);
    let image = home.image("disk.raw", 4 * MIB, &[(0, 4 * MIB)], 1);
    let source = image.to_str().unwrap();
    let stopped = |arguments: &[&str], these: fn(&Asked) -> bool, signal: i32, status: i32| {
        server.hang_on(these);
        server.take_asked();
        let mut command = home.command(arguments.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !server.take_asked().iter().any(these) {
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "{arguments:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let told = Instant::now();
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(text.contains("stopped on request"), "{text}");
        // Far less than the minute after which a request is given up by itself.
        assert!(told.elapsed() < Duration::from_secs(20), "{arguments:?}: {:?}", told.elapsed());
        server.hang_no_more();
    };
    stopped(&["rescue", "vault", "check", &vault], |_| true, libc::SIGINT, 130);
    stopped(&["rescue", "point", "list", "--vault", &vault], |_| true, libc::SIGTERM, 143);
    let other = server.location("two");
    stopped(&["rescue", "vault", "init", &other], |_| true, libc::SIGINT, 130);
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    stopped(&backup, |asked| asked.target.contains("/packs/"), libc::SIGINT, 130);
    // It made no point, and what answers was cleaned up.
    assert_eq!(home.ok(["rescue", "point", "list", "--vault", &vault]), "");
    home.ok(backup);
    home.ok(["rescue", "vault", "check", &vault, "--read-data"]);
}

#[test]
fn a_check_without_the_right_to_delete_looks_and_says_what_stays() {
    let server = S3Server::start();
    let home = home_at(&server);
    let vault = server.location("one");
    home.ok(["rescue", "vault", "init", &vault]);
    server.refuse(|asked| (asked.method == "DELETE").then_some(Refuse::with(403, "AccessDenied")));
    let output = home.run(["rescue", "vault", "check", &vault]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("sound: "));
    assert!(
        told.contains("warning: sessions/") && told.contains("stays behind in s3://vaults/one"),
        "{told}"
    );
    let report = home.json(["rescue", "vault", "check", &vault]);
    assert_eq!(report["left_behind"].as_array().unwrap().len(), 1, "{report}");
    // Backups and restores need it as little.
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &image);
    // By then both are over, and reclaim takes them away.
    server.refuse_nothing();
    home.ok(["rescue", "vault", "reclaim", &vault]);
    let report = home.json(["rescue", "vault", "check", &vault]);
    assert_eq!(report["left_behind"], serde_json::Value::Null);
    assert_eq!(server.names("one/sessions"), [""; 0]);
}

#[test]
fn an_authority_and_a_pace_are_named_on_the_command_line() {
    let server = S3Server::start_encrypted();
    let mut home = home_at(&server);
    let vault = server.location("one");
    let authority = server.authority_file().to_str().unwrap().to_owned();
    home.fails(1, &["certificate", "--ca FILE", "AWS_CA_BUNDLE"], ["rescue", "vault", "init", &vault]);
    home.ok(["rescue", "vault", "init", &vault, "--ca", &authority]);
    let list = ["rescue", "point", "list", "--vault", &vault];
    home.fails(1, &["certificate"], list);
    home.ok(list.into_iter().chain(["--ca", &authority, "--requests-per-second", "100"]));
    server.take_asked();
    let began = Instant::now();
    home.ok(list.into_iter().chain(["--ca", &authority, "--requests-per-second", "10"]));
    let asked = server.take_asked().len() as u32;
    assert!(
        asked > 2 && began.elapsed() >= Duration::from_millis(95) * (asked - 1),
        "{asked} {:?}",
        began.elapsed()
    );
    home.environment.push(("AWS_CA_BUNDLE".into(), authority));
    home.ok(list);
    home.fails(1, &["nowhere.pem"], list.into_iter().chain(["--ca", "nowhere.pem"]));
    home.fails(2, &["--requests-per-second"], list.into_iter().chain(["--requests-per-second", "0"]));
}

#[test]
fn a_server_that_replaces_what_it_is_to_create_gets_no_points() {
    let server = S3Server::start();
    let mut home = Home::new();
    home.environment =
        server.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let vault = server.location("one");
    home.ok(["rescue", "vault", "init", &vault]);
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let source = image.to_str().unwrap();
    home.ok(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    // The server is exchanged for one that does not know of conditional writes.
    server.ignore_conditions();
    let objects = |prefix: &str| server.names(prefix);
    let before = objects("");
    let endpoint = server.endpoint();
    let words = [endpoint.as_str(), "If-None-Match", "use a server"];
    home.fails(1, &words, ["image", "backup", source, "--vault", &vault, "--item", "a"]);
    home.fails(1, &words, ["rescue", "vault", "init", &server.location("two")]);
    // Nothing of it is left, no key either; and what is there can be read.
    assert_eq!(objects(""), before);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &image);
}

#[test]
fn a_vault_for_one_writer_is_safe_with_such_a_server() {
    let server = S3Server::start();
    server.ignore_conditions();
    let mut home = Home::new();
    home.environment =
        server.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let vault = server.location("one");
    home.ok(["rescue", "vault", "init", &vault, "--single-writer"]);
    home.fails(1, &["already exists"], ["rescue", "vault", "init", &vault, "--single-writer"]);
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let source = image.to_str().unwrap();
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    home.ok(backup);
    home.ok(backup);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &image);
    home.ok(["rescue", "vault", "reclaim", &vault]);
    home.ok(["rescue", "vault", "check", &vault, "--read-data"]);
}

#[test]
fn a_vault_in_a_bucket_lives_like_one_in_a_directory() {
    let server = S3Server::start();
    let mut home = Home::new();
    home.environment =
        server.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let vault = server.location("hosts/one");
    home.ok(["rescue", "vault", "init", &vault]);
    let image = home.image("disk.raw", 6 * MIB, &[(0, 3 * MIB)], 1);
    let source = image.to_str().unwrap();
    home.ok(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    change(&image, MIB, 65536, 5);
    let told = home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    assert_eq!(told["new_bytes"], 65536);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &image);
    home.ok(["rescue", "vault", "check", &vault, "--read-data"]);
    home.fails(1, &[&vault, "already exists"], ["rescue", "vault", "init", &vault]);
    home.fails(1, &["not a vault"], ["rescue", "point", "list", "--vault", &server.location("hosts/two")]);
    // What is shown has no secrets in it.
    let stats = home.ok(["rescue", "vault", "stats", &vault]);
    assert!(stats.contains(&vault) && !stats.contains(S3Server::SECRET_ACCESS_KEY), "{stats}");
    home.environment.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    home.fails(1, &["AWS_SECRET_ACCESS_KEY"], ["rescue", "point", "list", "--vault", &vault]);
}
