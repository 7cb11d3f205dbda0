//! A vault in an S3 bucket.

use crate::common::{Home, MIB, change, same};
use strongroom_store::objects::testing::S3Server;

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
