//! A machine may be called what libvirt allows, and its files what the host allows.

mod common;

use common::*;
use strongroom_hypervisor::*;

/// Each begins with what hurts: libvirt names the directory of a running machine by the beginning of its name.
const HOSTILE: &[&str] = &["Bob's R&D \"q\"<a> ", "back\\slash 100%25 ", "-v ü✓ a,b=c,,d;e:$(x) "];

/// Every way in which a machine is touched, on storage that clones and on such that does not.
#[test]
fn every_verb_takes_every_name() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        for name in HOSTILE {
            let name = format!("{name}{}", unique());
            eprintln!("{kind:?}: {name}");
            let mut machine =
                TestMachine::called(&storage, &[("vda", "qcow2"), ("vdb", "raw")], "", name.clone());
            machine.write_offline("vda", "qcow2", 0, MIB, 1);
            machine.back_up();
            machine.start();
            machine.write("vda", 2 * MIB, MIB, 2);
            let running = machine.back_up();
            assert_eq!(running.total_bytes("vda"), MIB, "{name}: {:?}", running.warnings);
            assert!(!job_runs(&machine), "{name}");
            // Where it clones, one of the raw disk stays to compare with.
            assert_eq!(storage.own_files().len(), usize::from(storage.clones()), "{name}");
            assert!(machine.hypervisor.list().unwrap().iter().any(|m| m.name == name));
            assert!(machine.hypervisor.name_is_free(&name).unwrap_err().to_string().contains("exists"));
            let found = machine.hypervisor.inspect(&name).unwrap();

            let copy = format!("{name}'s copy");
            let path = storage.path().join(format!("{copy}.qcow2"));
            std::fs::copy(machine.disk_path("vda"), &path).unwrap();
            let made = machine.hypervisor.create(&RestoreMachineRequest {
                definition_xml: found.definition_xml,
                new_name: copy.clone(),
                disks: vec![RestoredDisk {
                    target: "vda".into(),
                    path,
                    format: DiskFormat::Qcow2,
                    secret: None,
                }],
                network: NetworkChoice::Keep,
                firmware: None,
                nvram: None,
                tpm: None,
                unencrypted: false,
            });
            assert_eq!(made.unwrap().name, copy);
            machine.hypervisor.start(&copy).unwrap();
            machine.hypervisor.power_off(&copy).unwrap();
            machine.hypervisor.undefine(&copy).unwrap();

            machine.hypervisor.power_off(&name).unwrap();
            let off = machine.back_up();
            assert!(!off.is_full("vda"), "{name}: {:?}", off.warnings);
            assert!(machine.hypervisor.untrack(&name).unwrap().warnings.is_empty());
            assert!(machine.checkpoints().is_empty() && machine.bitmaps("vda").is_empty());
            assert_eq!(storage.own_files(), [""; 0], "{name}");
            machine.hypervisor.undefine(&name).unwrap();
        }
    }
}

fn job_runs(machine: &TestMachine<'_>) -> bool {
    try_run("virsh", &["-q", "-c", "qemu:///system", "backup-dumpxml", &machine.name]).status.success()
}
