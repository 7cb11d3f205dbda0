//! What images may be, and what they are restored to.

use crate::common::{Home, KIB, MIB, change, same, tool};
use serde_json::json;

#[test]
fn a_qcow2_image_is_read_as_the_disk_in_it() {
    let home = Home::with_vault();
    let vault = home.vault();
    let raw = home.image("disk.raw", 8 * MIB, &[(0, MIB), (6 * MIB, 64 * KIB)], 5);
    let qcow2 = home.text("disk.qcow2");
    tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), &qcow2]);
    let told = home.json(["image", "backup", &qcow2, "--vault", &vault, "--item", "a"]);
    assert_eq!((&told["source_format"], &told["size_bytes"]), (&json!("qcow2"), &json!(8 * MIB)));
    assert!(told["read_bytes"].as_u64().unwrap() <= 2 * MIB, "{told}");
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &raw);

    // Said to be raw, it is the container.
    home.ok(["image", "backup", &qcow2, "--vault", &vault, "--item", "b", "--source-format", "raw"]);
    home.ok(["image", "restore", "b@latest", "--vault", &vault, "--to", &home.text("out.qcow2")]);
    same(&home.path("out.qcow2"), qcow2.as_ref());

    // Other formats are read when they are named.
    let vmdk = home.text("disk.vmdk");
    tool("qemu-img", ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap(), &vmdk]);
    let output = home.run(["image", "backup", &vmdk, "--vault", &vault, "--item", "c", "--json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--source-format vmdk"), "{output:?}");
    home.ok(["image", "backup", &vmdk, "--vault", &vault, "--item", "d", "--source-format", "vmdk"]);
    home.ok(["image", "restore", "d@latest", "--vault", &vault, "--to", &home.text("d.raw")]);
    same(&home.path("d.raw"), &raw);
}

#[test]
fn images_of_other_formats_do_not_go_in_as_raw_disks_without_a_word() {
    let home = Home::with_vault();
    let vault = home.vault();
    let raw = home.image("disk.raw", MIB, &[(0, MIB)], 5);
    let backup = |name: &str, more: &[&str]| {
        let image = home.text(name);
        let fixed = ["image", "backup", &image, "--vault", &vault, "--item", "a", "--json"];
        let output = home.run([&fixed[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = told["warnings"].to_string();
        assert_eq!(warnings != "[]", String::from_utf8_lossy(&output.stderr).contains("warning:"));
        (told["source_format"].clone(), warnings)
    };
    for format in ["vdi", "vmdk", "vhdx", "vpc", "qcow", "qed", "parallels"] {
        let name = format!("disk.{format}");
        tool("qemu-img", ["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), &home.text(&name)]);
        let (read_as, warnings) = backup(&name, &[]);
        assert_eq!(read_as, "raw");
        let how = match format {
            "qcow" | "qed" | "parallels" => "qemu-img convert -f",
            _ => "--source-format",
        };
        assert!(warnings.contains(&name) && warnings.contains(&format!("{how} {format}")), "{warnings}");
        assert_eq!(backup(&name, &["--source-format", "raw"]).1, "[]", "{format}: somebody said so");
    }
    assert_eq!(backup("disk.vdi", &["--source-format", "vdi"]), ("vdi".into(), "[]".into()));
    assert_eq!(backup("disk.raw", &[]), ("raw".into(), "[]".into()));
    // What comes in on standard input is looked at as well.
    let output = home
        .command(["image", "backup", "-", "--vault", &vault, "--item", "s"])
        .stdin(std::fs::File::open(home.path("disk.vdi")).unwrap())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("looks like a vdi image"), "{output:?}");
}

#[test]
fn an_image_that_was_cut_short_is_refused_unless_it_is_wanted_as_it_is() {
    let home = Home::with_vault();
    let vault = home.vault();
    let raw = home.image("disk.raw", 8 * MIB, &[(0, 8 * MIB)], 5);
    let before = home.contents("vault/points");
    for format in ["qcow2", "vdi", "vmdk", "vhdx", "vpc"] {
        let image = home.text(&format!("disk.{format}"));
        tool("qemu-img", ["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), &image]);
        let length = std::fs::metadata(&image).unwrap().len();
        std::fs::File::options().write(true).open(&image).unwrap().set_len(length - 3 * MIB).unwrap();
        let backup = ["image", "backup", &image, "--vault", &vault, "--item", "a", "--source-format", format];
        let words: &[&str] = match format {
            // It cannot be read at all.
            "vpc" => &["disk.vpc", "truncated"],
            _ => &["is damaged, and no point was made", "--force", &format!("The check of {format} says")],
        };
        home.fails(1, words, backup);
        if format == "qcow2" {
            home.fails(1, words, ["image", "backup", &image, "--vault", &vault, "--item", "a"]);
        }
    }
    assert_eq!(home.contents("vault/points"), before);
    let image = home.text("disk.qcow2");
    let told = home.json(["image", "backup", &image, "--vault", &vault, "--item", "a", "--force"]);
    assert!(told["warnings"][0].as_str().unwrap().contains("was damaged"), "{told}");
    let shown = home.json(["rescue", "point", "show", "a@latest", "--vault", &vault]);
    assert!(shown["warnings"].to_string().contains("exceeding the end of the file"), "{shown}");

    // What merely takes more room than it needs is backed up, and said.
    let leaking = home.text("leaking.qcow2");
    tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), &leaking]);
    let file = std::fs::File::options().read(true).write(true).open(&leaking).unwrap();
    let mut place = [0; 8];
    for _ in 0..2 {
        let at = if place == [0; 8] { 48 } else { u64::from_be_bytes(place) };
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut place, at).unwrap();
    }
    let cluster = file.metadata().unwrap().len().div_ceil(64 * KIB);
    file.set_len((cluster + 1) * 64 * KIB).unwrap();
    let count = u64::from_be_bytes(place) + 2 * cluster;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0, 1], count).unwrap();
    let told = home.json(["image", "backup", &leaking, "--vault", &vault, "--item", "l"]);
    assert!(told["warnings"][0].as_str().unwrap().contains("1 leaked cluster"), "{told}");
    home.ok(["image", "restore", "l@latest", "--vault", &vault, "--to", &home.text("l.raw")]);
    same(&home.path("l.raw"), &raw);
}

#[test]
fn a_raw_disk_that_poses_as_qcow2_gets_no_file_of_the_host() {
    let home = Home::with_vault();
    let vault = home.vault();
    std::fs::write(home.path("secret"), "of the host").unwrap();
    let image = home.text("guest.raw");
    let secret = home.text("secret");
    tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", &secret, "-F", "raw", &image, "1M"]);
    let before = home.contents("vault/points");
    home.fails(
        1,
        &["guest.raw", "secret", "--source-format"],
        ["image", "backup", &image, "--vault", &vault, "--item", "a"],
    );
    // Nor where somebody says that it is qcow2: that says nothing of the file it names.
    home.fails(
        1,
        &["guest.raw", "secret", "not followed"],
        ["image", "backup", &image, "--vault", &vault, "--item", "a", "--source-format", "qcow2"],
    );
    let other = home.text("other.qcow2");
    let options = format!("data_file={secret}.data,data_file_raw=on");
    tool("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, &other, "1M"]);
    for format in ["auto", "qcow2"] {
        let arguments =
            ["image", "backup", &other, "--vault", &vault, "--item", "a", "--source-format", format];
        home.fails(1, &["other.qcow2", "secret.data", "not followed"], arguments);
    }
    let flat = home.text("flat.vmdk");
    tool("qemu-img", ["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &flat, "1M"]);
    home.fails(
        1,
        &["flat.vmdk", "not followed"],
        ["image", "backup", &flat, "--vault", &vault, "--item", "a", "--source-format", "vmdk"],
    );
    assert_eq!(home.contents("vault/points"), before);
    home.ok(["image", "backup", &image, "--vault", &vault, "--item", "a", "--source-format", "raw"]);
}

#[test]
fn images_grow_and_shrink_and_need_not_end_on_a_block() {
    let home = Home::with_vault();
    let vault = home.vault();
    let size = MIB + 1234;
    let image = home.image("disk.raw", size, &[(0, 128 * KIB), (size - 1000, 1000)], 6);
    let source = image.to_str().unwrap();
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    home.ok(backup);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("1")]);
    same(&home.path("1"), &image);

    // What was added is read, also when the list does not name it.
    std::fs::File::options().write(true).open(&image).unwrap().set_len(3 * MIB).unwrap();
    change(&image, 2 * MIB, 64 * KIB, 9);
    std::fs::write(home.path("none.json"), "[]").unwrap();
    let none = home.text("none.json");
    home.ok(backup.into_iter().chain(["--changed-extents", &none]));
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("2")]);
    same(&home.path("2"), &image);

    std::fs::File::options().write(true).open(&image).unwrap().set_len(100_000).unwrap();
    home.ok(backup);
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("3")]);
    same(&home.path("3"), &image);

    let empty = home.image("empty.raw", 0, &[], 0);
    home.ok(["image", "backup", empty.to_str().unwrap(), "--vault", &vault, "--item", "e"]);
    home.ok(["image", "restore", "e@latest", "--vault", &vault, "--to", &home.text("4")]);
    assert_eq!(std::fs::read(home.path("4")).unwrap(), b"");
}

#[test]
fn zeroed_and_punched_ranges_become_holes() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 4 * MIB, &[(0, 4 * MIB)], 6);
    let source = image.to_str().unwrap();
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "a"];
    home.ok(backup);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; 512 * 1024], MIB).unwrap();
    tool("fallocate", ["-p", "-o", "2097152", "-l", "1048576", source]);
    std::fs::write(
        home.path("c.json"),
        json!([{"offset": 2 * MIB, "length": MIB}, {"offset": MIB, "length": 512 * KIB}]).to_string(),
    )
    .unwrap();
    let list = home.text("c.json");
    let told = home.json(backup.into_iter().chain(["--changed-extents", &list]));
    // The hole is known from the file system, the zeroes only by reading them.
    assert_eq!(told["read_bytes"], 512 * KIB);
    assert_eq!(told["changed_bytes"], MIB + 512 * KIB);
    assert_eq!(told["new_bytes"], 0);
    let told = home.json(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out")]);
    assert_eq!(told["data_bytes"], 2 * MIB + 512 * KIB);
    same(&home.path("out"), &image);
}

/// A loop device on a file, taken away again.
struct Loop(String);

impl Loop {
    fn on(path: &std::path::Path) -> Option<Self> {
        let output =
            std::process::Command::new("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_overwritten_only_when_told_and_holes_read_as_zeroes() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 4 * MIB, &[(MIB, 256 * KIB)], 6);
    let device_file = home.image("device", 5 * MIB, &[(0, 5 * MIB)], 77);
    let Some(device) = Loop::on(&device_file) else {
        eprintln!("no loop devices here: restoring to one is not tested");
        return;
    };
    home.ok(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let restore = ["image", "restore", "a@latest", "--vault", &vault, "--to", &device.0];
    let before = std::fs::read(&device_file).unwrap();
    home.fails(1, &[&device.0, "--force"], restore);
    assert_eq!(std::fs::read(&device_file).unwrap(), before);
    home.ok(restore.into_iter().chain(["--force"]));
    // The device itself can be backed up.
    let told = home.json(["image", "backup", &device.0, "--vault", &vault, "--item", "dev"]);
    assert_eq!(told["size_bytes"], 5 * MIB);
    home.ok(["image", "restore", "dev@latest", "--vault", &vault, "--to", &home.text("out")]);
    let out = std::fs::read(home.path("out")).unwrap();
    assert!(out[..4 * MIB as usize] == std::fs::read(&image).unwrap()[..], "the disk differs");
    assert!(out[4 * MIB as usize..] == before[4 * MIB as usize..], "what lies beyond was touched");

    let large = home.image("large.raw", 6 * MIB, &[], 0);
    home.ok(["image", "backup", large.to_str().unwrap(), "--vault", &vault, "--item", "large"]);
    home.fails(
        1,
        &[&device.0, "at least as large"],
        ["image", "restore", "large@latest", "--vault", &vault, "--to", &device.0, "--force"],
    );
}
