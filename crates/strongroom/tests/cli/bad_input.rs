//! Everything a user may get wrong: each message names the thing and says what to do, and nothing changes.

use crate::common::{Home, MIB, change, hold, send};

#[test]
fn points_items_and_disks_that_are_not_there() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let before = home.contents("vault");
    let to = home.text("out.raw");
    let id = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
    for (point, words) in [
        (id, &[id, "not found", "point list"][..]),
        ("b@latest", &["b@latest", "no points of this item", "point list"]),
        ("a@2020-01-01", &["a@", "first point is later"]),
        ("a@tomorrow", &["tomorrow", "is not a time"]),
        ("a", &["`a` names no recovery point", "ITEM@latest"]),
        ("@latest", &["is not a valid item name"]),
    ] {
        home.fails(1, words, ["image", "restore", point, "--vault", &vault, "--to", &to]);
        home.fails(1, words, ["rescue", "point", "show", point, "--vault", &vault]);
        home.fails(1, words, ["rescue", "point", "forget", point, "--vault", &vault]);
        home.fails(
            1,
            words,
            ["rescue", "point", "serve", point, "--vault", &vault, "--socket", &home.text("s")],
        );
    }
    let words = ["has no disk `vdb`", "it has: disk"];
    home.fails(1, &words, ["image", "restore", "a@latest", "--vault", &vault, "--to", &to, "--disk", "vdb"]);
    home.fails(
        1,
        &words,
        ["rescue", "point", "serve", "a@latest", "--vault", &vault, "--socket", &to, "--disk", "vdb"],
    );
    assert!(!home.path("out.raw").exists() && !home.path("s").exists());
    assert_eq!(home.contents("vault"), before);
}

#[test]
fn locations_that_are_no_vault() {
    let home = Home::new();
    std::fs::create_dir(home.path("empty")).unwrap();
    let list =
        |at: &str| ["rescue".to_owned(), "point".into(), "list".into(), "--vault".into(), at.to_owned()];
    home.fails(1, &["empty", "not a vault", "vault init"], list(&home.text("empty")));
    home.fails(1, &["missing", "check the location"], list(&home.text("missing")));
    home.fails(2, &["ftp"], list("ftp://host/x"));
    home.fails(2, &["not a vault"], ["rescue", "vault", "check", &home.text("empty")]);
    home.fails(2, &["missing"], ["rescue", "vault", "check", &home.text("missing")]);
    home.fails(1, &["AWS_ACCESS_KEY_ID"], list("s3://bucket/x"));
    assert!(!home.path("missing").exists());

    // As other programs spell places elsewhere: nothing of that name is made here.
    let names = || std::fs::read_dir(home.path(".")).unwrap().count();
    let before = (home.contents("."), names());
    for mistyped in ["s3:bucket/x", "s3:/bucket/y", "b2:bucket", "sftp:host:/x", "rclone:r:x", "user@host:x"]
    {
        let words = [mistyped, "s3://", &format!("./{mistyped}")];
        home.fails(2, &words, ["rescue", "vault", "init", mistyped]);
        home.fails(2, &words, ["vault", "init", mistyped]);
        home.fails(2, &words, list(mistyped));
        home.fails(2, &words, ["vault", "import", mistyped, "--name", "x"]);
        home.fails(2, &words[..1], ["image", "backup", "x", "--vault", mistyped, "--item", "a"]);
        home.fails(2, &words[2..], ["image", "restore", "a", "--vault", "v", "--to", mistyped]);
        let rescue = ["rescue", "vm", "restore", "a", "--vault", "v", "--as", "x", "--storage", mistyped];
        home.fails(2, &words[2..], rescue);
        let output = home
            .command(["image", "backup", "x", "--item", "a"])
            .env("STRONGROOM_VAULT", mistyped)
            .output()
            .unwrap();
        assert!(output.status.code() == Some(2), "{output:?}");
    }
    assert_eq!((home.contents("."), names()), before, "something was made");
    home.ok(["rescue", "vault", "init", "./a:b"]);
    home.ok(["rescue", "vault", "check", &home.text("a:b")]);

    // One of a format to come.
    home.ok(["rescue", "vault", "init", &home.vault()]);
    for name in ["vault/vault.json", "vault/vault.copy.json"] {
        let header = std::fs::read_to_string(home.path(name)).unwrap();
        let line = header.lines().next().unwrap().replace("\"version\":2", "\"version\":99");
        let hash = blake3::hash(line.as_bytes()).to_hex();
        std::fs::write(home.path(name), format!("{line}\nblake3 {hash}\n")).unwrap();
    }
    home.fails(1, &["version 99", "newer Strongroom"], list(&home.vault()));
}

#[test]
fn targets_that_exist_or_cannot_be() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    std::fs::write(home.path("precious"), "data").unwrap();
    std::os::unix::fs::symlink("nowhere", home.path("link")).unwrap();
    let restore =
        |to: &str| ["image", "restore", "a@latest", "--vault", &vault, "--to", to].map(str::to_owned);
    home.fails(1, &["precious", "already exists", "another name"], restore(&home.text("precious")));
    assert_eq!(std::fs::read_to_string(home.path("precious")).unwrap(), "data");
    home.fails(1, &["link", "already exists"], restore(&home.text("link")));
    home.fails(1, &["vault", "already exists"], restore(&vault));
    home.fails(1, &["no/such", "does not exist"], restore(&home.text("no/such/file")));
    home.fails(1, &["/dev/null"], restore("/dev/null"));
    assert!(!home.path("nowhere").exists());
}

#[test]
fn a_target_without_room() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 4 * MIB, &[(0, 4 * MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let small = home.text("small");
    std::fs::create_dir(&small).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none", &small]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("nothing can be mounted here: a full target is not tested");
        return;
    }
    let to = home.text("small/out.raw");
    for format in ["raw", "qcow2"] {
        home.fails(
            1,
            &["no room", &to, "free space"],
            ["image", "restore", "a@latest", "--vault", &vault, "--to", &to, "--format", format],
        );
    }
    let left = std::fs::read_dir(&small).unwrap().count();
    let made = home.run(["rescue", "vault", "init", &home.text("small/vault")]);
    let full = home.run([
        "image",
        "backup",
        image.to_str().unwrap(),
        "--vault",
        &home.text("small/vault"),
        "--item",
        "a",
    ]);
    let points = home.run(["rescue", "point", "list", "--vault", &home.text("small/vault"), "--json"]);
    assert!(std::process::Command::new("umount").arg(&small).status().unwrap().success());
    assert_eq!(left, 0);
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8_lossy(&full.stderr);
    assert!(full.status.code() == Some(1) && text.contains("free space"), "{full:?}");
    assert!(String::from_utf8_lossy(&points.stdout).contains("\"points\": []"), "{points:?}");
}

#[test]
fn sources_that_cannot_be_read() {
    let home = Home::with_vault();
    let vault = home.vault();
    let before = home.contents("vault");
    let backup =
        |source: &str| ["image", "backup", source, "--vault", &vault, "--item", "a"].map(str::to_owned);
    home.fails(1, &["missing.raw", "does not exist", "disk image"], backup(&home.text("missing.raw")));
    home.fails(1, &["neither a file nor a block device"], backup("/dev/null"));
    home.fails(1, &["neither a file nor a block device"], backup(&vault));
    std::fs::write(home.path("bad.qcow2"), [b"QFI\xfb".as_slice(), &[0xff; 600]].concat()).unwrap();
    home.fails(1, &["bad.qcow2"], backup(&home.text("bad.qcow2")));
    home.fails(2, &["item name", "@"], ["image", "backup", "x", "--vault", &vault, "--item", "a@b"]);
    assert_eq!(home.contents("vault"), before);
}

#[test]
fn lists_of_changed_extents() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    let source = image.to_str().unwrap();
    let list = home.text("c.json");
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    let with_list: Vec<&str> = backup.into_iter().chain(["--changed-extents", &list]).collect();
    // Relative to nothing.
    std::fs::write(&list, "[]").unwrap();
    home.fails(1, &["item a has no point", "without --changed-extents"], &with_list);
    home.ok(backup);
    change(&image, 0, 4096, 9);
    let before = home.contents("vault/points");
    for (text, words) in [
        ("", &["c.json", "not a JSON list"][..]),
        ("{}", &["not a JSON list"]),
        ("[1]", &["extent 0 is 1", "expected {\"offset\""]),
        (r#"[{"offset":0,"length":4096},{"offset":4096}]"#, &["extent 1", "missing field `length`"]),
        (r#"[{"offset":-1,"length":4096}]"#, &["extent 0", "-1"]),
        (r#"[{"offset":0.5,"length":4096}]"#, &["extent 0"]),
        (r#"[{"offset":0,"length":4096,"zero":true}]"#, &["extent 0", "unknown field `zero`"]),
        (r#"[{"offset":0,"length":8192},{"offset":4096,"length":1}]"#, &["c.json", "extent 1", "overlaps"]),
        (r#"[{"offset":1048576,"length":1}]"#, &["extent 0", "beyond the disk's size of 1048576"]),
        (r#"[{"offset":18446744073709551615,"length":2}]"#, &["extent 0", "beyond"]),
        (r#"[{"offset":0,"length":1}"#, &["not a JSON list"]),
    ] {
        std::fs::write(&list, text).unwrap();
        home.fails(1, words, &with_list);
    }
    std::fs::remove_file(&list).unwrap();
    home.fails(1, &["c.json"], &with_list);
    assert_eq!(home.contents("vault/points"), before);
    // Whole numbers that touch, in any order, are fine.
    std::fs::write(
        &list,
        r#"[{"offset":4096,"length":10},{"offset":0,"length":4096},{"offset":5,"length":0}]"#,
    )
    .unwrap();
    home.ok(&with_list);
}

#[test]
fn a_vault_that_is_being_reclaimed_is_not_reclaimed_twice() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 1);
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let holds =
        || home.path("vault/locks/reclaim").read_dir().is_ok_and(|mut entries| entries.next().is_some());
    for _ in 0..500 {
        let mut first = home.command(["rescue", "vault", "reclaim", &vault]).spawn().unwrap();
        // Held still while it has the lock, if it can be caught.
        while !holds() && first.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        let caught = hold(&first) && holds();
        if caught {
            home.fails(
                1,
                &["reclaim on", &vault, "in use", "wait for it to end"],
                ["rescue", "vault", "reclaim", &vault],
            );
            // Others go on beside it.
            home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
        }
        send(&first, libc::SIGCONT);
        assert!(first.wait().unwrap().success());
        if caught {
            home.ok(["rescue", "vault", "reclaim", &vault]);
            return;
        }
    }
    panic!("no reclaim could be caught while it held its lock");
}
