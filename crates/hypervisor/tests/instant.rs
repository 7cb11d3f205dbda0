//! Machines over exports: started, cut off, moved in, thrown away. With a real guest, whose kernel is its host's.

mod common;

use common::*;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strongroom_hypervisor::*;
use strongroom_nbd::{Export, Server, ServerHandle};
use uuid::Uuid;

const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(120);

struct Image(File, u64);

impl Export for Image {
    fn size_bytes(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset_bytes)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A saved guest: its definition, and an image of its disk with an ext4 of some files.
struct Saved {
    storage: Storage,
    definition_xml: String,
    image: PathBuf,
}

impl Saved {
    fn new(mib: u64) -> Self {
        libvirt();
        let storage = Storage::new(Kind::Ext4);
        let files = tempfile::tempdir().unwrap();
        for n in 0..4 {
            let noise: Vec<u8> = (0..2 * MIB).map(|i| (i * 31 + n * 7 + i / 251) as u8).collect();
            std::fs::write(files.path().join(format!("file{n}")), noise).unwrap();
        }
        let image = storage.path().join("saved.raw");
        run("mke2fs", &["-q", "-t", "ext4", "-d", text(files.path()), text(&image), &format!("{mib}M")]);
        let tiny = match std::env::var_os("STRONGROOM_TEST_TINY") {
            Some(path) => PathBuf::from(path),
            None => run(text(&repository().join("tests/guests/make-tiny")), &[]).trim().into(),
        };
        let definition_xml = run(
            text(&repository().join("tests/guests/define-tiny")),
            &[
                "srtest-saved",
                "--dir",
                text(&storage.path()),
                "--disk",
                &format!("vda:raw:{mib}M"),
                "--memory",
                "128",
                "--tiny",
                text(&tiny),
            ],
        );
        Self { storage, definition_xml, image }
    }

    fn serve(&self, socket: &Path) -> ServerHandle {
        let size = std::fs::metadata(&self.image).unwrap().len();
        let image = Image(File::open(&self.image).unwrap(), size);
        let server = Server::new().export("vda", image).unwrap().listen_unix(socket).unwrap();
        libvirt().hand_over_socket(socket).unwrap();
        server
    }

    fn wanted(&self, name: &str, reconnect_seconds: u32) -> OverlayMachine {
        let uuid = Uuid::new_v4();
        let socket = libvirt().export_socket(&format!("test-{}", uuid.simple())).unwrap();
        let path = self.storage.path().join(format!("{name}.qcow2"));
        let backing = format!("nbd+unix:///vda?socket={}", socket.display());
        let size = std::fs::metadata(&self.image).unwrap().len().to_string();
        run(
            "qemu-img",
            &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &backing, text(&path), &size],
        );
        OverlayMachine {
            machine: RestoreMachineRequest {
                definition_xml: self.definition_xml.clone(),
                new_name: name.to_owned(),
                disks: vec![RestoredDisk {
                    target: "vda".into(),
                    path,
                    format: DiskFormat::Qcow2,
                    secret: None,
                }],
                network: NetworkChoice::Keep,
                nvram: None,
                firmware: None,
                tpm: None,
                unencrypted: false,
            },
            uuid,
            socket,
            reconnect_seconds,
        }
    }
}

struct Made(String);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = libvirt().power_off(&self.0);
        let _ = libvirt().undefine(&self.0);
    }
}

fn unique(what: &str) -> String {
    format!("srtest-{what}-{}", Uuid::new_v4().simple())
}

fn sh(name: &str, script: &str) -> String {
    let output = libvirt().guest_exec(name, "/bin/sh", &["-c", script], COMMAND).unwrap();
    assert_eq!(output.exit_code, Some(0), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn machine_runs_from_an_export_is_paused_without_it_and_stands_alone_in_the_end() {
    let saved = Saved::new(64);
    let libvirt = libvirt();
    let name = unique("over");
    let wanted = saved.wanted(&name, 1);
    let server = saved.serve(&wanted.socket);
    let _made = Made(name.clone());
    let created = libvirt.start_over_exports(&wanted).unwrap();
    assert_eq!((created.name.as_str(), created.uuid), (name.as_str(), wanted.uuid.to_string()));
    libvirt.wait_for_agent(&name, BOOT).unwrap();
    assert_eq!(libvirt.pull_state(&name, "vda").unwrap(), PullState::Waiting);
    sh(&name, "echo written > /mnt/vda/new && sync");

    // Without its export: paused once the time is over, nothing failed in the guest, and on it goes.
    server.stop();
    let command = "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\"echo 3 > /proc/sys/vm/drop_caches; sha256sum /mnt/vda/file* > /tmp/sums\"]}}";
    virsh(&["qemu-agent-command", &name, command]);
    let state = || libvirt.inspect(&name).unwrap().summary.state;
    wait_until("it is paused", Duration::from_secs(60), || state() == MachineState::Paused);
    let server = saved.serve(&wanted.socket);
    wait_until("it goes on", Duration::from_secs(60), || {
        let _ = libvirt.resume_after_io_error(&name).unwrap();
        // A read that failed again while QEMU was not connected yet pauses it once more.
        libvirt.wait_for_agent(&name, Duration::from_millis(10)).is_ok()
    });
    assert!(!libvirt.resume_after_io_error(&name).unwrap());
    wait_until("the sums are there", Duration::from_secs(60), || {
        sh(&name, "wc -l < /tmp/sums").trim() == "4"
    });
    let sums = sh(&name, "cat /tmp/sums");
    assert_eq!(sh(&name, "dmesg").matches("I/O error").count(), 0);

    libvirt.begin_pull(&name, "vda").unwrap();
    wait_until("everything is moved", Duration::from_secs(60), || {
        libvirt.pull_state(&name, "vda").unwrap() == PullState::Done
    });
    server.stop();
    let overlay = text(&wanted.machine.disks[0].path);
    assert!(!run("qemu-img", &["info", "-U", overlay]).contains("backing"));
    for flags in [&["dumpxml", &name][..], &["dumpxml", "--inactive", &name]] {
        let xml = virsh(flags);
        assert!(!xml.contains("nbd") && !xml.contains(".sock'"), "{xml}");
    }
    assert_eq!(sh(&name, "echo 3 > /proc/sys/vm/drop_caches; sha256sum /mnt/vda/file*"), sums);
    // Stopped and started it is a machine like any other.
    libvirt.power_off(&name).unwrap();
    libvirt.start(&name).unwrap();
    libvirt.wait_for_agent(&name, BOOT).unwrap();
    assert_eq!(sh(&name, "cat /mnt/vda/new"), "written\n");
}

#[test]
fn machine_thrown_away_has_a_screen_and_is_on_no_list() {
    let saved = Saved::new(16);
    let libvirt = libvirt();
    let name = format!("strongroom-drill-{}", &Uuid::new_v4().simple().to_string()[..12]);
    let wanted = saved.wanted(&name, 60);
    let _server = saved.serve(&wanted.socket);
    let mut other = wanted.clone();
    other.machine.new_name = "srtest-other".into();
    assert!(libvirt.start_throw_away(&other).is_err());
    let machine = libvirt.start_throw_away(&wanted).unwrap();
    assert!(libvirt.inspect(&name).unwrap().summary.state.is_active());
    assert!(libvirt.list().unwrap().iter().all(|m| m.name != name));
    libvirt.wait_for_agent(&name, BOOT).unwrap();
    sh(&name, "test ! -e /sys/class/net/eth0 && echo x > /mnt/vda/x && sync");
    let screen = libvirt.screenshot(&name).unwrap();
    assert!(screen.width >= 320 && screen.height >= 200, "{} x {}", screen.width, screen.height);
    assert!(screen.png().unwrap().starts_with(b"\x89PNG"));
    drop(machine);
    wait_until("it is gone", Duration::from_secs(30), || {
        matches!(libvirt.inspect(&name), Err(Error::NotFound { .. }))
    });
}
