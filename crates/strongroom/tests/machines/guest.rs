//! Tiny Linux guests that answer the guest agent.

use super::*;
use strongroom_hypervisor::{Hypervisor as _, Libvirt};

/// How long a guest may take to boot under emulation on a busy host.
const BOOT: Duration = Duration::from_secs(400);
const COMMAND: Duration = Duration::from_secs(400);

/// Where the guest's kernel and programs are.
pub fn tiny() -> PathBuf {
    static MADE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    MADE.get_or_init(|| match std::env::var_os("STRONGROOM_TEST_TINY") {
        Some(path) => path.into(),
        None => run(text(&repository().join("tests/guests/make-tiny")), &[]).trim().into(),
    })
    .clone()
}

/// Where the Debian guest with PostgreSQL is.
fn debian() -> PathBuf {
    match std::env::var_os("STRONGROOM_TEST_DEBIAN") {
        Some(path) => path.into(),
        None => {
            let make = repository().join("tests/guests/make-debian");
            run(text(&make), &["--package", "postgresql"]).trim().into()
        }
    }
}

/// A running guest, its disks at `/mnt/<target>` or blank. Removed when dropped.
pub struct Guest {
    pub name: String,
    libvirt: Libvirt,
    is_ours_to_remove: bool,
}

impl Guest {
    /// `disks` as `define-tiny` takes them; `format` says which get a file system.
    pub fn start(what: &str, directory: &Path, disks: &[&str], format: &str) -> Self {
        Self::start_with(what, directory, disks, format, &[])
    }

    /// With more options of `define-tiny`.
    pub fn start_with(what: &str, directory: &Path, disks: &[&str], format: &str, options: &[&str]) -> Self {
        let tiny = tiny();
        let mut all =
            vec!["--dir", text(directory), "--format", format, "--memory", "128", "--tiny", text(&tiny)];
        for disk in disks {
            all.extend(["--disk", disk]);
        }
        all.extend(options);
        Self::started("tiny", unique(what), &all)
    }

    /// A Debian that boots from its own disk, with PostgreSQL, a second disk at `/data`, and a port for the extension.
    pub fn debian(what: &str, directory: &Path) -> Self {
        let debian = debian();
        let options = ["--dir", text(directory), "--debian", text(&debian), "--extension-port"];
        Self::started("debian", unique(what), &options)
    }

    /// Its agent answers; it has booted, or goes on from where one like it had.
    fn started(kind: &str, name: String, options: &[&str]) -> Self {
        start_libvirt();
        let guest = Self { name, libvirt: Libvirt::default(), is_ours_to_remove: true };
        let script = repository().join("tests/guests/start");
        eprint!("{}", run(text(&script), &[&[kind, &guest.name], options].concat()));
        guest
    }

    /// One that is defined already, and removed by whoever has defined it.
    pub fn of_restored(restored: &Restored) -> Self {
        Self::called(&restored.name)
    }

    /// The same, by its name.
    pub fn called(name: &str) -> Self {
        Self { name: name.to_owned(), libvirt: Libvirt::default(), is_ours_to_remove: false }
    }

    pub fn boot(&self) {
        self.libvirt.start(&self.name).unwrap();
        self.libvirt.wait_for_agent(&self.name, BOOT).unwrap();
    }

    pub fn sh(&self, script: &str) -> String {
        let output = self.libvirt.guest_exec(&self.name, "/bin/sh", &["-c", script], COMMAND).unwrap();
        assert_eq!(output.exit_code, Some(0), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Names and sums of all files on all its disks.
    pub fn sums(&self) -> String {
        let sums = self.sh("cd /mnt && find . -type f | sort | xargs sha256sum");
        assert!(sums.lines().count() > 0);
        sums
    }

    pub fn shut_down(&self) {
        self.libvirt.shutdown(&self.name, BOOT).unwrap();
    }

    pub fn power_off(&self) {
        self.libvirt.power_off(&self.name).unwrap();
    }

    /// False also while it is suspended: libvirt does not ask the agent of a machine that stands still.
    pub fn is_thawed(&self) -> bool {
        let asked = ["qemu-agent-command", &self.name, r#"{"execute":"guest-fsfreeze-status"}"#];
        let answer = try_run("virsh", &[&["-q", "-c", "qemu:///system"], &asked[..]].concat());
        answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains("thawed")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.is_ours_to_remove {
            remove_machine(&self.name);
        }
    }
}
