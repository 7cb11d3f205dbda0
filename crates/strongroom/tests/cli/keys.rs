//! Keys: where they are kept, how they move, and what the wrong one does.

use crate::common::{Home, MIB};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

#[test]
fn a_key_moves_as_text_and_as_a_file() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let text = home.ok(["rescue", "vault", "key", "export", &vault]);
    assert!(text.contains("STRONGROOM-KEY-1"), "{text}");
    let file = home.text("copy.key");
    home.ok(["rescue", "vault", "key", "export", &vault, "--to", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    home.fails(1, &[&file, "already exists"], ["rescue", "vault", "key", "export", &vault, "--to", &file]);

    // Without the ring's key the vault is closed; with the file it opens.
    std::fs::rename(home.keys(), home.path("away")).unwrap();
    let list = ["rescue", "point", "list", "--vault", &vault];
    home.fails(1, &["no key for vault", "--key-file", "key import"], list);
    home.ok(list.into_iter().chain(["--key-file", &file]));
    // From the file, and from paper by way of standard input.
    home.ok(["rescue", "vault", "key", "import", &file]);
    home.ok(list);
    std::fs::remove_dir_all(home.keys()).unwrap();
    let mut import = home
        .command(["rescue", "vault", "key", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(text.replace('\n', "\r\n").as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    home.ok(list);
    // The same again is fine.
    home.ok(["rescue", "vault", "key", "import", &file]);
    let kept = std::fs::read_dir(home.keys()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);

    // Another key of the same vault replaces nothing.
    let id = home.json(["rescue", "vault", "stats", &vault])["vault"].as_str().unwrap().parse().unwrap();
    let other = strongroom_store::KeyFile::generate(id).unwrap();
    std::fs::write(home.path("other.key"), other.to_text()).unwrap();
    home.fails(
        1,
        &["already exists", "another key", "nothing was changed"],
        ["rescue", "vault", "key", "import", &home.text("other.key")],
    );
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);

    // A wrong digit is noticed.
    let digit = text.rfind(char::is_numeric).unwrap();
    let mut typo = text.clone().into_bytes();
    typo[digit] = if typo[digit] == b'1' { b'2' } else { b'1' };
    std::fs::write(home.path("typo.key"), typo).unwrap();
    home.fails(1, &["checksum"], ["rescue", "vault", "key", "import", &home.text("typo.key")]);
    home.fails(1, &["absent.key"], ["rescue", "vault", "key", "import", &home.text("absent.key")]);
}

#[test]
fn a_wrong_key_opens_nothing_and_changes_nothing() {
    let home = Home::with_vault();
    let vault = home.vault();
    let other = home.text("other");
    let made = home.run(["rescue", "vault", "init", &other, "--key-file", &home.text("other.key")]);
    // The next step works as it is printed.
    let told = String::from_utf8(made.stderr).unwrap();
    let step = told.lines().find_map(|line| line.trim().strip_prefix("strongroom ")).unwrap();
    home.ok(step.split(' '));
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let before = home.contents("vault");
    let wrong = home.text("other.key");
    let words = ["the key does not open vault", "--key-file"];
    let source = image.to_str().unwrap();
    home.fails(
        1,
        &words,
        ["image", "backup", source, "--vault", &vault, "--item", "a", "--key-file", &wrong],
    );
    home.fails(1, &words, ["rescue", "point", "list", "--vault", &vault, "--key-file", &wrong]);
    home.fails(1, &words, ["rescue", "vault", "key", "export", &vault, "--key-file", &wrong]);
    home.fails(2, &words, ["rescue", "vault", "check", &vault, "--key-file", &wrong]);
    std::fs::write(home.path("junk"), "hello").unwrap();
    home.fails(
        1,
        &["junk", "no Strongroom key"],
        ["rescue", "point", "list", "--vault", &vault, "--key-file", &home.text("junk")],
    );
    home.fails(
        1,
        &["nothere.key"],
        ["rescue", "point", "list", "--vault", &vault, "--key-file", &home.text("nothere.key")],
    );
    assert_eq!(home.contents("vault"), before);
}

#[test]
fn a_vault_that_cannot_be_made_leaves_no_key() {
    let home = Home::with_vault();
    let vault = home.vault();
    let before = (home.contents("vault"), home.contents("config"));
    home.fails(1, &[&vault, "already exists"], ["rescue", "vault", "init", &vault]);
    home.fails(
        1,
        &[&vault, "already exists"],
        ["rescue", "vault", "init", &vault, "--key-file", &home.text("new.key")],
    );
    assert!(!home.path("new.key").exists());
    // A directory with something else in it.
    std::fs::create_dir(home.path("full")).unwrap();
    std::fs::write(home.path("full/thing"), "x").unwrap();
    home.fails(1, &["full", "thing", "not empty"], ["rescue", "vault", "init", &home.text("full")]);
    std::fs::write(home.path("file"), "x").unwrap();
    home.fails(1, &["file", "not a directory"], ["rescue", "vault", "init", &home.text("file")]);
    // A key file that is there is never overwritten.
    std::fs::write(home.path("mine.key"), "precious").unwrap();
    let refused = ["rescue", "vault", "init", &home.text("fresh"), "--key-file", &home.text("mine.key")];
    home.fails(1, &["mine.key", "already exists"], refused);
    assert_eq!(std::fs::read_to_string(home.path("mine.key")).unwrap(), "precious");
    assert!(!home.path("fresh").exists());
    // A key that cannot be written.
    home.fails(
        1,
        &["nowhere/a.key"],
        ["rescue", "vault", "init", &home.text("fresh"), "--key-file", &home.text("nowhere/a.key")],
    );
    assert!(!home.path("fresh").exists());
    for size in ["3000", "8M", "1K", "65k5", "x"] {
        home.fails(
            if size.ends_with(['5', 'x']) { 2 } else { 1 },
            &[],
            ["rescue", "vault", "init", &home.text("fresh"), "--block-size", size],
        );
    }
    assert!(!home.path("fresh").exists());
    assert_eq!((home.contents("vault"), home.contents("config")), before);
    // A directory that is there and empty is fine, so is another block size.
    std::fs::create_dir(home.path("empty")).unwrap();
    let made = home.json(["rescue", "vault", "init", &home.text("empty"), "--block-size", "128K"]);
    assert_eq!(made["block_size_bytes"], 131072);
}
