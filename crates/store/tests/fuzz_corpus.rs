//! A bounded run of the fuzz targets on what a vault holds: sound objects, and many mutations of them, always the
//! same ones. `fuzz/` runs the same functions under a fuzzer for as long as one likes.

#[path = "../../../tests/lib/soak.rs"]
mod soak;

use strongroom_store::fuzzing;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..1 + random(state) % 4 {
        let at = random(state) as usize % bytes.len().max(1);
        match random(state) % 6 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (random(state) % 8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random(state) as usize % 5],
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), random(state) as u8),
            4 if bytes.len() >= at + 4 => {
                let extreme = [0u32, 1, u32::MAX, 1 << 31, 1 << 24, 65_536][random(state) as usize % 6];
                bytes[at..at + 4].copy_from_slice(&extreme.to_le_bytes());
            }
            _ => bytes.extend_from_slice(&random(state).to_le_bytes()),
        }
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    type Target = fn(&[u8]);
    let targets: [(&str, Target); 6] = [
        ("pack", fuzzing::pack),
        ("node", fuzzing::node),
        ("manifest", fuzzing::manifest),
        ("index_run", fuzzing::index_run),
        ("text", fuzzing::text),
        ("sealed", fuzzing::sealed),
    ];
    for (name, target) in targets {
        let mut seeds: Vec<Vec<u8>> =
            fuzzing::seeds().into_iter().filter(|(of, _)| *of == name).map(|(_, bytes)| bytes).collect();
        assert!(!seeds.is_empty());
        let directory = format!("{corpus}/vault_{name}");
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory}: {e}")) {
            seeds.push(std::fs::read(entry.unwrap().path()).unwrap());
        }
        let mut state = 0x5eed_0001;
        for seed in &seeds {
            target(seed);
            for _ in 0..soak::number(4000, 40_000) {
                let mut bytes = seed.clone();
                mutate(&mut bytes, &mut state);
                target(&bytes);
            }
        }
    }
}

/// Writes the seeds into the corpus: `cargo test -p strongroom-store --test fuzz_corpus -- --ignored`.
#[test]
#[ignore = "writes files into fuzz/corpus"]
fn write_seeds() {
    for (number, (name, bytes)) in fuzzing::seeds().into_iter().enumerate() {
        let directory = format!("{}/../../fuzz/corpus/vault_{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(format!("{directory}/seed-{number}"), bytes).unwrap();
    }
}
