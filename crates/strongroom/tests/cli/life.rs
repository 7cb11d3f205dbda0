//! The whole life of an image in a vault.

use crate::common::{Home, KIB, MIB, allocated, change, same, tool};
use serde_json::json;

#[test]
fn an_image_is_backed_up_changed_restored_forgotten_and_reclaimed() {
    let home = Home::new();
    let vault = home.vault();
    let made = home.json(["rescue", "vault", "init", &vault]);
    assert_eq!(made["block_size_bytes"], 65536);
    assert!(std::path::Path::new(made["key_file"].as_str().unwrap()).starts_with(home.keys()));

    let image = home.image("disk.raw", 16 * MIB, &[(0, 2 * MIB), (9 * MIB, MIB)], 1);
    let source = image.to_str().unwrap();
    let backup = ["image", "backup", source, "--vault", &vault, "--item", "web"];
    let first = home.json(backup);
    assert_eq!(first["item"], "web");
    assert_eq!(first["size_bytes"], 16 * MIB);
    assert_eq!(first["read_bytes"], 3 * MIB);
    assert_eq!(first["changed_bytes"], 3 * MIB);
    assert_eq!(first["new_bytes"], 3 * MIB);
    assert!(first["stored_bytes"].as_u64().unwrap() >= 3 * MIB);
    assert_eq!(first["consistency"]["level"], "crash");
    assert_eq!(first["parent"], json!(null));
    let before = home.path("before.raw");
    std::fs::copy(&image, &before).unwrap();

    // With the extents given only those are read.
    change(&image, 4 * MIB, 64 * KIB, 7);
    std::fs::write(home.path("changed.json"), json!([{"offset": 4 * MIB, "length": 64 * KIB}]).to_string())
        .unwrap();
    let mut with_extents = backup.to_vec();
    let changed = home.text("changed.json");
    with_extents.extend(["--changed-extents", &changed]);
    let second = home.json(&with_extents);
    assert_eq!(second["read_bytes"], 64 * KIB);
    assert_eq!(second["new_bytes"], 64 * KIB);
    assert_eq!(second["parent"], first["point"]);
    assert!(second["stored_bytes"].as_u64().unwrap() < 96 * KIB, "{second}");

    // Without them everything is compared.
    change(&image, 9 * MIB + 5, 10, 8);
    let third = home.json(backup);
    assert_eq!(third["changed_bytes"], 64 * KIB);
    let unchanged = home.json(backup);
    assert_eq!((&unchanged["changed_bytes"], &unchanged["stored_bytes"]), (&json!(0), &json!(0)));

    // Listed oldest first, found by each kind of name.
    let list = home.json(["rescue", "point", "list", "--vault", &vault, "--item", "web"]);
    let points = list["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    assert_eq!(points[0]["point"], first["point"]);
    assert_eq!(points[3]["point"], unchanged["point"]);
    let table = home.ok(["rescue", "point", "list", "--vault", &vault]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.starts_with("POINT "), "{table}");
    let first_id = first["point"].as_str().unwrap();
    let shown = home.json(["rescue", "point", "show", "web@latest", "--vault", &vault]);
    assert_eq!(shown["point"], unchanged["point"]);
    assert_eq!(shown["attributes"]["source"], source);
    assert!(
        home.ok(["rescue", "point", "show", first_id, "--vault", &vault])
            .contains("nobody was asked to keep it still")
    );
    // The time a person is shown finds the point, or a later one of the same second.
    let row = table.lines().nth(4).unwrap();
    let taken = row.split_whitespace().nth(2).unwrap();
    let by_time = home.json(["rescue", "point", "show", &format!("web@{taken}"), "--vault", &vault]);
    assert_eq!(by_time["point"], unchanged["point"]);

    // Restored as raw and as qcow2, both with holes.
    let restored = home.path("restored.raw");
    let told =
        home.json(["image", "restore", first_id, "--vault", &vault, "--to", restored.to_str().unwrap()]);
    assert_eq!(told["data_bytes"], 3 * MIB);
    same(&restored, &before);
    assert!(allocated(&restored) < 4 * MIB);
    let qcow2 = home.text("restored.qcow2");
    home.ok(["image", "restore", "web@latest", "--vault", &vault, "--to", &qcow2, "--format", "qcow2"]);
    tool("qemu-img", ["check", "-q", &qcow2]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", source, &qcow2]);
    assert!(allocated(qcow2.as_ref()) < 4 * MIB);
    // Nothing incomplete is left beside them.
    let hidden = std::fs::read_dir(home.path(""))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(hidden.count(), 0);

    // Forgetting leaves the others whole, and reclaim gives the space back.
    let told = home.json(["rescue", "point", "forget", first_id, "--vault", &vault]);
    assert_eq!(told["forgotten"], first_id);
    home.fails(1, &[first_id, "not found"], ["rescue", "point", "show", first_id, "--vault", &vault]);
    let stats = home.json(["rescue", "vault", "stats", &vault]);
    assert_eq!((&stats["points"], &stats["items"]), (&json!(3), &json!(1)));
    assert_eq!(stats["logical_bytes"], 48 * MIB);
    assert!(home.ok(["rescue", "vault", "stats", &vault]).contains("stored:"));
    home.ok([
        "image",
        "restore",
        "web@latest",
        "--vault",
        &vault,
        "--to",
        &home.text("again.raw"),
        "--no-sync",
    ]);
    same(&home.path("again.raw"), &image);
}

/// What the vault says of itself holds without a service too, unless it is meant.
#[test]
fn points_of_an_immutable_vault_are_not_forgotten_by_mistake() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, MIB)], 3);
    let point = home.json(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    let point = point["point"].as_str().unwrap();
    let key = home.text("exported.key");
    home.ok(["rescue", "vault", "key", "export", &vault, "--to", &key]);
    let location = strongroom_store::objects::Location::parse(&vault).unwrap();
    let store = strongroom_engine::vaults::open(&location, Some(key.as_ref())).unwrap();
    for said in [json!("locked"), json!("unlocked"), json!(7)] {
        store.write_note("settings", &json!({ "immutability": said })).unwrap();
        let forget = ["rescue", "point", "forget", point, "--vault", &vault];
        home.fails(1, &["immutable", "--although-immutable"], forget);
        let lost = ["rescue", "vault", "reclaim", &vault, "--accept-loss", point];
        home.fails(1, &["immutable", "--although-immutable"], lost);
    }
    home.ok(["rescue", "point", "forget", point, "--vault", &vault, "--although-immutable"]);
    store.write_note("settings", &json!({ "immutability": "disabled" })).unwrap();
    let again = home.json(["image", "backup", image.to_str().unwrap(), "--vault", &vault, "--item", "a"]);
    home.ok(["rescue", "point", "forget", again["point"].as_str().unwrap(), "--vault", &vault]);
}

#[test]
fn space_of_forgotten_points_comes_back_and_the_rest_stays_sound() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 12 * MIB, &[(0, 12 * MIB)], 3);
    let source = image.to_str().unwrap();
    let first = home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    change(&image, 0, 8 * MIB, 4);
    home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    home.ok(["rescue", "point", "forget", first["point"].as_str().unwrap(), "--vault", &vault]);
    let before = home.json(["rescue", "vault", "stats", &vault])["stored_bytes"].as_u64().unwrap();
    let told = home.json(["rescue", "vault", "reclaim", &vault]);
    let freed = told["freed_bytes"].as_u64().unwrap();
    // Condemned first, deleted by the next one.
    let again = home.json(["rescue", "vault", "reclaim", &vault]);
    let freed = freed + again["freed_bytes"].as_u64().unwrap();
    assert!(freed >= 7 * MIB, "{told} {again}");
    let after = home.json(["rescue", "vault", "stats", &vault])["stored_bytes"].as_u64().unwrap();
    assert!(before - after >= 7 * MIB, "{before} {after}");
    assert!(home.ok(["rescue", "vault", "reclaim", &vault]).contains("freed"));
    let check = home.json(["rescue", "vault", "check", &vault, "--read-data"]);
    assert_eq!(check["findings"], json!([]));
    home.ok(["image", "restore", "a@latest", "--vault", &vault, "--to", &home.text("out.raw")]);
    same(&home.path("out.raw"), &image);
}

#[test]
fn damage_is_found_named_and_not_restored() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", 4 * MIB, &[(0, 4 * MIB)], 3);
    let source = image.to_str().unwrap();
    let point = home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    let id = point["point"].as_str().unwrap();
    assert!(home.ok(["rescue", "vault", "check", &vault]).contains("sound"));
    let (pack, mut bytes) =
        home.contents("vault/packs").into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let output = home.run(["rescue", "vault", "check", &vault, "--read-data", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = &report["findings"][0];
    assert!(finding["object"].as_str().unwrap().contains("packs/"), "{report}");
    assert_eq!(finding["points"], json!([{"point": id, "item": "a"}]), "{report}");
    let output = home.run(["rescue", "vault", "check", &vault, "--read-data"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(id) && text.contains("packs/"), "{text}");
    home.fails(
        1,
        &["damaged", "vault check"],
        ["image", "restore", id, "--vault", &vault, "--to", &home.text("out.raw")],
    );
    assert!(!home.path("out.raw").exists());
    // The next backup heals it.
    home.ok(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    home.ok(["image", "restore", id, "--vault", &vault, "--to", &home.text("healed.raw")]);
    same(&home.path("healed.raw"), &image);
}

#[test]
fn a_damaged_point_is_listed_and_hides_no_other() {
    let home = Home::with_vault();
    let vault = home.vault();
    let image = home.image("disk.raw", MIB, &[(0, 64 * KIB)], 3);
    let source = image.to_str().unwrap();
    let good = home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    let bad = home.json(["image", "backup", source, "--vault", &vault, "--item", "a"]);
    let bad_id = bad["point"].as_str().unwrap();
    let (path, bytes) =
        home.contents("vault/points").into_iter().find(|(path, _)| path.ends_with(bad_id)).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let output = home.run(["rescue", "point", "list", "--vault", &vault, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["points"][0]["point"], good["point"]);
    assert_eq!(list["damaged"][0]["point"], bad_id);
    let output = home.run(["rescue", "point", "list", "--vault", &vault]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(bad_id), "{output:?}");
    // Nothing can be relative to a point that cannot be read.
    std::fs::write(home.path("none.json"), "[]").unwrap();
    let none = home.text("none.json");
    home.fails(
        1,
        &["last point of item a is damaged", "without --changed-extents"],
        ["image", "backup", source, "--vault", &vault, "--item", "a", "--changed-extents", &none],
    );
    // By its id it can go.
    home.ok(["rescue", "point", "forget", bad_id, "--vault", &vault]);
    assert_eq!(home.json(["rescue", "point", "list", "--vault", &vault])["damaged"], json!([]));
}
