//! What is asked for and cannot be: each is refused with words that name the thing and what to do, and nothing is changed.

mod machines;

use machines::bare::{Bare, define, disk_xml, domain_xml};
use machines::*;
use std::os::unix::process::CommandExt as _;

fn refuses(lab: &Lab, arguments: &[&str], code: &str, words: &[&str]) {
    let arguments = lab.vault_args(arguments);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    lab.fails(&arguments, code, words);
}

#[test]
fn libvirt_what_cannot_be_is_refused() {
    let storage = Storage::new(Kind::Ext4, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("refusals", &storage.path(), &[("vda", "qcow2", 64), ("vdb", "raw", 8)]);
    machine.fill_with_noise("vda", 40, 1);
    let name = machine.name.clone();
    let backup = machine.back_up(&lab);
    assert_eq!(backup.disk("vda")["road"], "offline");
    let point = backup.point().to_owned();
    let new_name = unique("never");
    let to = directory_in(&storage.path());
    let to_path = text(to.path());

    // Machines, points, disks, networks that are not there.
    refuses(&lab, &["rescue", "vm", "backup", "srtest-nobody"], "not-found", &["srtest-nobody", "not found"]);
    refuses(&lab, &["rescue", "vm", "backup", &name, "--exclude", "vdz"], "not-found", &["vdz", "vda, vdb"]);
    let restore = |point: &str, more: &[&str]| -> Vec<String> {
        let arguments = ["rescue", "vm", "restore", point, "--as", &new_name, "--storage", to_path];
        [&arguments, more].concat().into_iter().map(str::to_owned).collect()
    };
    let refuses_restore = |point: &str, more: &[&str], code: &str, words: &[&str]| {
        let arguments = restore(point, more);
        refuses(&lab, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    refuses_restore("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", &[], "not-found", &["0190a1b2", "point list"]);
    refuses_restore("nobody@latest", &[], "not-found", &["nobody@latest"]);
    refuses_restore(&format!("{name}@2001-01-01"), &[], "not-found", &["first point is later"]);
    refuses_restore("nonsense", &[], "invalid", &["nonsense", "ITEM@latest"]);
    refuses_restore(&point, &["--disk", "vdq"], "not-found", &["vdq", "vda, vdb"]);
    refuses_restore(&point, &["--network", "no-such-net"], "not-found", &["no-such-net"]);

    // Names that are taken or no names, files in the way, directories that are none, no room.
    let with_name = |new_name: &str, code: &str, words: &[&str]| {
        refuses(
            &lab,
            &["rescue", "vm", "restore", &point, "--as", new_name, "--storage", to_path],
            code,
            words,
        );
    };
    with_name(&name, "already-exists", &[&name, "another name"]);
    with_name("../evil", "invalid", &["../evil"]);
    with_name("", "invalid", &["empty"]);
    let in_the_way = to.path().join(format!("{new_name}-vdb.raw"));
    std::fs::write(&in_the_way, "mine").unwrap();
    refuses_restore(&point, &[], "already-exists", &[text(&in_the_way), "overwrites nothing"]);
    assert_eq!(std::fs::read(&in_the_way).unwrap(), b"mine");
    std::fs::remove_file(&in_the_way).unwrap();
    let into = |storage: &std::path::Path, code: &str, words: &[&str]| {
        refuses(
            &lab,
            &["rescue", "vm", "restore", &point, "--as", &new_name, "--storage", text(storage)],
            code,
            words,
        );
    };
    into(&machine.disk_path("vda"), "invalid", &["not a directory"]);
    into(&to.path().join("a/b"), "not-found", &["does not exist"]);
    let small = Storage::new(Kind::Ext4, 24);
    into(&small.path(), "no-space", &[text(&small.path()), "free space"]);
    into(&small.path().join("made"), "no-space", &["free space"]);
    assert!(!small.path().join("made").exists());

    // A point of an image is no machine, and a machine's backups do not mix with an image's.
    let image = lab.path().join("image");
    std::fs::write(&image, "no machine").unwrap();
    let args = lab.vault_args(&["image", "backup", text(&image), "--item", "picture"]);
    lab.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    refuses_restore("picture@latest", &[], "invalid", &["image restore"]);
    let namesake = Bare::new("picture", &storage.path(), &[("vda", "qcow2", 8)]);
    let args = lab.vault_args(&["image", "backup", text(&image), "--item", &namesake.name]);
    lab.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    refuses(
        &lab,
        &["rescue", "vm", "backup", &namesake.name],
        "invalid",
        &["points of an image", &namesake.name],
    );

    // Machines with nothing to take.
    let odd = unique("diskless");
    let iso = lab.path().join("some.iso");
    std::fs::write(&iso, [0; 4096]).unwrap();
    let cdrom = format!(
        "<disk type='file' device='cdrom'><source file='{}'/><target dev='sda' bus='sata'/><readonly/></disk>",
        text(&iso)
    );
    for (devices, words) in [
        (String::new(), &["no disks"][..]),
        (cdrom.clone(), &["sda", "CD-ROM"]),
        (disk_xml("vda", "vmdk", &iso, ""), &["vmdk", "raw and qcow2"]),
        (disk_xml("vda", "raw", &iso, "<shareable/>"), &["vda", "shared"]),
    ] {
        define(&domain_xml(&odd, "", &devices));
        refuses(&lab, &["rescue", "vm", "backup", &odd], "unsupported", words);
        remove_machine(&odd);
    }
    // A header that names a file which the definition does not: that file would be read.
    std::fs::write(lab.path().join("secret"), "of root's alone").unwrap();
    let posing = lab.path().join("posing.qcow2");
    let secret = text(&lab.path().join("secret")).to_owned();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &secret, "-F", "raw", text(&posing), "1M"]);
    define(&domain_xml(&odd, "", &disk_xml("vda", "qcow2", &posing, "")));
    let words = [text(&posing), &secret, "libvirt does not", "start the machine", "backingStore"];
    refuses(&lab, &["rescue", "vm", "backup", &odd], "unsupported", &words);
    remove_machine(&odd);
    // As where it says that there is nothing below.
    define(&domain_xml(&odd, "", &disk_xml("vda", "qcow2", &posing, "<backingStore/>")));
    refuses(&lab, &["rescue", "vm", "backup", &odd], "unsupported", &words);
    remove_machine(&odd);
    // Where the definition names the file, it is read, and another one that the header names is not.
    let base = lab.path().join("base");
    std::fs::write(&base, vec![b'B'; MIB as usize]).unwrap();
    let below = format!(
        "<backingStore type='file'><format type='raw'/><source file='{}'/><backingStore/></backingStore>",
        text(&base)
    );
    define(&domain_xml(&odd, "", &disk_xml("vda", "qcow2", &posing, &below)));
    let args = lab.vault_args(&["rescue", "vm", "backup", &odd]);
    lab.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let restored = lab.restore_disk(&format!("{odd}@latest"), "vda");
    assert!(std::fs::read(restored.path()).unwrap().iter().all(|b| *b == b'B'));
    remove_machine(&odd);
    // Nor when the rest is excluded.
    refuses(
        &lab,
        &["rescue", "vm", "backup", &name, "--exclude", "vda", "--exclude", "vdb"],
        "unsupported",
        &["excluded"],
    );

    // A network that is not here: said before anything is read, and there is a way round.
    let wired = unique("wired");
    let nic = "<interface type='network'><source network='srtest-no-net'/></interface>";
    define(&domain_xml(&wired, "", &(disk_xml("vda", "qcow2", &machine.disk_path("vda"), "") + nic)));
    let of_wired = lab.back_up(&wired);
    refuses_restore(of_wired.point(), &[], "not-found", &["srtest-no-net", "--no-network"]);
    let unplugged = lab.restore(of_wired.point(), &new_name, to.path(), &["--no-network"]);
    assert!(!unplugged.xml().contains("<interface"));
    std::fs::remove_file(unplugged.disk("vda")).unwrap();
    drop(unplugged);
    remove_machine(&wired);

    // No libvirt, or none for us.
    let nowhere = "qemu+unix:///system?socket=/nonexistent/socket";
    lab.fails(&["rescue", "vm", "list", "--connect", nowhere], "unavailable", &["libvirt"]);
    refuses(&lab, &["rescue", "vm", "backup", &name, "--connect", nowhere], "unavailable", &["libvirt"]);
    lab.fails(
        &["rescue", "vm", "list", "--connect", "no-such-driver:///x"],
        "unavailable",
        &["no-such-driver"],
    );

    // A wrong vault or key, before the machine is touched.
    let empty = directory_in(lab.path());
    lab.fails(
        &["rescue", "vm", "backup", &name, "--vault", text(empty.path())],
        "not-found",
        &["not a vault"],
    );
    let other = Lab::new();
    let output = other.try_it(&["rescue", "vm", "backup", &name, "--vault", text(&lab.vault), "--json"]);
    assert!(!output.status.success() && told(&output).contains("key"), "{}", told(&output));

    // None of all this left anything.
    assert!(!machine_exists(&new_name));
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
    assert_eq!(lab.points(&name), [point]);
    assert!(lab.points("srtest-nobody").is_empty());
    assert_eq!(storage.hidden_files().iter().filter(|n| n.starts_with(".strongroom")).count(), 0);
    lab.check();
}

/// A user who may not speak to libvirt is told so.
/// QEMU reads what is not there as zeroes: a copy that was cut short would go in as a disk with less on it.
#[test]
fn libvirt_a_disk_that_was_cut_short_is_refused() {
    let storage = Storage::new(Kind::Ext4, 100);
    let lab = Lab::new();
    let path = |name: &str| storage.path().join(name);
    std::fs::write(path("raw"), machines::bare::noise(4 << 20, 9)).unwrap();
    for name in ["base.qcow2", "disk.qcow2"] {
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&path("raw")), text(&path(name))]);
    }
    let (base, top) = (path("base.qcow2"), path("top.qcow2"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&top)]);
    let odd = unique("cut");
    let below = format!(
        "<backingStore type='file'><format type='qcow2'/><source file='{}'/><backingStore/></backingStore>",
        text(&base)
    );
    let alone = disk_xml("vda", "qcow2", &path("disk.qcow2"), "");
    let chain = disk_xml("vda", "qcow2", &top, &below);
    for (devices, damaged) in [(&alone, "disk.qcow2"), (&chain, "base.qcow2")] {
        define(&domain_xml(&odd, "", devices));
        let file = std::fs::File::options().write(true).open(path(damaged)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let words = [damaged, "is damaged", "exceeding the end of the file", "exclude"];
        refuses(&lab, &["rescue", "vm", "backup", &odd], "unsupported", &words);
        assert!(lab.points(&odd).is_empty());
        remove_machine(&odd);
    }
}

#[test]
fn libvirt_not_permitted() {
    let lab = Lab::new();
    // Away from directories that only root can enter.
    let copy = lab.path().join("strongroom");
    std::fs::copy(env!("CARGO_BIN_EXE_strongroom"), &copy).unwrap();
    // A socket like libvirt's on a host where only root may use it.
    let socket = lab.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = std::process::Command::new("chmod").arg("0600").arg(&socket).status().unwrap();
    assert!(output.success());
    let uri = format!("qemu+unix:///system?socket={}", text(&socket));
    let output = std::process::Command::new(&copy)
        .args(["rescue", "vm", "list", "--json", "--connect", &uri])
        .env("XDG_DATA_HOME", "/nonexistent")
        .env_remove("LIBVIRT_DEFAULT_URI")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("\"denied\"") && said.contains("libvirt"), "{said}");
}

/// The storage fills up while disks are restored: an error, and nothing is left.
#[test]
fn libvirt_the_storage_fills_up() {
    let storage = Storage::new(Kind::Ext4, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("full", &storage.path(), &[("vda", "qcow2", 64), ("vdb", "qcow2", 64)]);
    machine.fill_with_noise("vda", 40, 1);
    machine.fill_with_noise("vdb", 40, 2);
    let backup = machine.back_up(&lab);
    let small = Storage::new(Kind::Ext4, 150);
    // Enough when it is looked at, and no longer when it is needed. A fast restore may be done before the room is gone.
    let filler = small.path().join("filler");
    let failed = (0..10).any(|_| {
        let new_name = unique("never");
        let arguments =
            ["rescue", "vm", "restore", backup.point(), "--as", &new_name, "--storage", text(&small.path())]
                .map(str::to_owned);
        let arguments = lab.vault_args(&arguments.each_ref().map(String::as_str));
        let mut child = lab
            .command(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the restore has begun", std::time::Duration::from_secs(30), || {
            !small.hidden_files().is_empty() || child.try_wait().unwrap().is_some()
        });
        let _ = try_run("fallocate", &["-l", "100M", text(&filler)]);
        let output = child.wait_with_output().unwrap();
        std::fs::remove_file(&filler).unwrap();
        if output.status.success() {
            remove_machine(&new_name);
            run("sh", &["-c", &format!("rm {}/*.qcow2", text(&small.path()))]);
            return false;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.to_lowercase().contains("no space") || said.contains("no room"), "{said}");
        assert!(!machine_exists(&new_name));
        let left: Vec<_> =
            std::fs::read_dir(small.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["lost+found"]);
        // Refused at the beginning, it was not what is tested here.
        !said.contains("no room")
    });
    assert!(failed, "it never filled up in time");
}

/// UEFI variables go along, and belong to the new machine alone.
#[test]
fn libvirt_uefi_variables_go_along() {
    let storage = Storage::new(Kind::Ext4, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("uefi", &storage.path(), &[("vda", "qcow2", 8)]);
    let variables = storage.path().join("old-variables.fd");
    let firmware = storage.path().join("firmware.fd");
    std::fs::write(&firmware, [0; 4096]).unwrap();
    std::fs::write(&variables, bare_noise()).unwrap();
    let os = format!(
        "<loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram>",
        text(&firmware),
        text(&variables)
    );
    virsh(&["undefine", &machine.name]);
    define(&domain_xml(&machine.name, &os, &disk_xml("vda", "qcow2", &machine.disk_path("vda"), "")));
    machine.fill_with_noise("vda", 1, 1);
    let backup = machine.back_up(&lab);
    assert!(backup.warnings().is_empty(), "{backup:?}");
    std::fs::remove_file(&variables).unwrap();
    let to = storage.path().join("new");
    let restored = lab.restore(backup.point(), &unique("restored"), &to, &[]);
    let path = to.join(format!("{}-uefi-variables.fd", restored.name));
    assert_eq!(std::fs::read(&path).unwrap(), bare_noise());
    assert!(restored.xml().contains(text(&path)), "{}", restored.xml());
    // Gone: the next backup goes without them, and says so.
    let without = machine.back_up(&lab);
    assert!(without.is_warned(&["UEFI variables", "are gone"]), "{without:?}");
}

fn bare_noise() -> Vec<u8> {
    machines::bare::noise(8192, 9)
}
