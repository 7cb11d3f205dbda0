//! Entry points for fuzzing: each takes any bytes for what a vault might hold, and must neither panic nor allocate
//! beyond its limits. Run by `fuzz/`, and over the corpus and mutations of it by `tests/fuzz_corpus.rs`.
//!
//! Hashes and macs are computed anew for what is fuzzed where they would otherwise stop everything at the door.

use crate::crypto::{Id, VaultKeys, hash16, hex};
use crate::frame::{Frame, PackId};
use crate::index::run::{MAC_BYTES, Run};
use crate::node::Node;
use crate::pack::{TRAILER_BYTES, walk};
use crate::sealed::Sealed;
use crate::{commits, frames, header, keys, lists, manifest, record, roll, tombstone};
use serde::Serialize;
use serde::de::DeserializeOwned;
use strongroom_domain::{SessionId, VaultId};

/// The keys of the vault that fuzzed objects belong to.
fn vault_keys() -> VaultKeys {
    VaultKeys::new(VaultId::from_bytes([1; 16]), [2; 32])
}

fn pack_id() -> PackId {
    PackId { session: SessionId::from_bytes([3; 16]), sequence: 0 }
}

/// A pack: walked as it is, and with frames, directory and trailer carrying right hashes.
pub fn pack(data: &[u8]) {
    let keys = vault_keys();
    let mut bytes = data.to_vec();
    for round in 0..2 {
        let walked = walk(&bytes, &pack_id(), &keys.vault);
        for entry in walked.frames {
            let frame = bytes.get(entry.offset as usize..).unwrap_or_default();
            let _ = frames::decode(frame, &pack_id(), entry.offset, &keys, 4096);
        }
        if round == 0
            && let Some(at) = bytes.len().checked_sub(TRAILER_BYTES)
        {
            let directory_at =
                u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap_or_default()) as usize;
            let hash = hash16(&[bytes.get(directory_at..at).unwrap_or_default(), &bytes[at..at + 24]]);
            bytes[at + 24..].copy_from_slice(&hash);
            if let Some(frame) = bytes.get(64..).filter(|frame| frame.len() > 40) {
                let hash = hash16(&[&frame[..24], &frame[40..]]);
                bytes[64 + 24..64 + 40].copy_from_slice(&hash);
            }
        }
    }
    let _ = Frame::parse(data);
}

/// A tree node.
pub fn node(data: &[u8]) {
    if let Ok((node, len)) = Node::decode(data) {
        assert_eq!(node.encode(), &data[..len], "a node has one encoding");
    }
}

/// A manifest: as an object, and as what would be sealed in one.
pub fn manifest(data: &[u8]) {
    let keys = vault_keys();
    let name = "points/0123456789abcdef/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
    let _ = manifest::open(&keys, name, data);
    if data.len() > 72 {
        let mut bytes = data.to_vec();
        let end = bytes.len() - 16;
        let hash = hash16(&[&bytes[..end]]);
        bytes[end..].copy_from_slice(&hash);
        let _ = manifest::open(&keys, name, &bytes);
    }
    let _ = serde_json::from_slice::<manifest::Manifest>(data);
}

/// An index run.
pub fn index_run(data: &[u8]) {
    let keys = vault_keys();
    let mut bytes = data.to_vec();
    if let Some(at) = bytes.len().checked_sub(MAC_BYTES) {
        let mac = *keys.index_hasher().update(&bytes[..at]).finalize().as_bytes();
        bytes[at..].copy_from_slice(&mac);
    }
    if let Ok(run) = Run::from_memory("index/fuzzed", &keys.vault, bytes.into()) {
        for seed in [0u8, 1, 0x7f, 0xff] {
            run.lookup(&Id([seed; 32]), |_, _| ());
        }
        let _ = run.for_each(|_, _| ());
        let _ = run.is_sound(&keys);
    }
}

/// Header, records and key files: text.
pub fn text(data: &[u8]) {
    let keys = vault_keys();
    let name = "sessions/x";
    let _ = header::Header::parse(data, "vault.json", "fuzzed");
    let _ = record::decode::<serde_json::Value>(&keys, name, data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = keys::KeyFile::parse(text);
        let line = text.split('\n').next().unwrap_or_default();
        let mac = hex(&keys.record_mac(name, line.as_bytes()));
        let sound = format!("{line}\nmac {mac}\n");
        let _ = record::decode::<commits::Entry>(&keys, name, sound.as_bytes());
        let _ = record::decode::<lists::Lists>(&keys, name, sound.as_bytes());
    }
}

/// Roll and tombstones: as objects, and as what would be sealed in them.
pub fn sealed(data: &[u8]) {
    sealed_one::<roll::Roll>(&roll::ROLL, data);
    sealed_one::<tombstone::Tombstone>(&tombstone::TOMBSTONE, data);
}

fn sealed_one<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &Sealed, data: &[u8]) {
    let keys = vault_keys();
    let _ = kind.open::<T>(&keys, "fuzzed", data);
    if let Some(end) = data.len().checked_sub(16) {
        let mut bytes = data.to_vec();
        let hash = hash16(&[&bytes[..end]]);
        bytes[end..].copy_from_slice(&hash);
        let _ = kind.open::<T>(&keys, "fuzzed", &bytes);
    }
    if let Ok(content) = serde_json::from_slice::<T>(data)
        && let Ok(sealed) = kind.seal(&keys, "fuzzed", &content)
    {
        assert_eq!(
            kind.open::<T>(&keys, "fuzzed", &sealed).ok(),
            Some(content),
            "what is sealed can be opened"
        );
    }
}

/// Sound objects to start from, by the name of the function they are for.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use crate::frame::{Codec, FrameContent, FrameKind};
    use crate::index::run::{PackRow, Record, encode};
    let keys = vault_keys();
    let mut builder = crate::pack::PackBuilder::new(
        pack_id(),
        keys.vault,
        keys.pack_key(&pack_id().session, 0),
        Vec::new(),
    );
    let block = [7; 4096];
    let id = keys.block_id(&block);
    let content =
        |kind, ids, payload| FrameContent { kind, codec: Codec::None, ids, plain_len: 4096, payload };
    builder.append(&content(FrameKind::Blocks, &[id], &block[..]));
    let mut leaf = Node::empty(0);
    leaf.set(5, Some(id));
    let encoding = leaf.encode();
    builder.append(&FrameContent {
        kind: FrameKind::Nodes,
        codec: Codec::None,
        ids: &[keys.node_id(&encoding)],
        plain_len: encoding.len(),
        payload: &encoding,
    });
    let rows = [PackRow { id: pack_id(), size_bytes: 9000 }];
    let records =
        (0..70u8).map(|n| Record { id: Id([n; 32]), pack: 0, offset: 64, frame_len: 99, slot: 0, kind: 1 });
    let header = r#"{"format":"strongroom-vault","version":1,"id":"01010101-0101-0101-0101-010101010101","created_at":"2026-01-01T00:00:00Z","block_size_bytes":4096,"key":{"provider":"file","key_id":"00","nonce":"00","wrapped":"00"}}"#;
    let header = format!("{header}\nblake3 {}\n", blake3::hash(header.as_bytes()).to_hex());
    let manifest_json = br#"{"point":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","item":"a","kind":"image","taken_at":"2026-01-01T00:00:00Z","committed_at":"2026-01-01T00:00:00Z","consistency":{"level":"crash","reason":""},"disks":[{"name":"vda","size_bytes":1,"read_bytes":0,"changed_bytes":0,"new_bytes":0}],"stored_bytes":0,"session":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","writer":"x"}"#;
    let mut seeds = vec![
        ("pack", builder.finish().1),
        ("node", encoding),
        ("index_run", encode(&keys, &rows, 70, records)),
        ("manifest", manifest_json.to_vec()),
        ("text", header.into_bytes()),
    ];
    if let Ok(parsed) = serde_json::from_slice::<manifest::Manifest>(manifest_json)
        && let Ok(sealed) = manifest::seal(&keys, &parsed)
    {
        seeds.push(("manifest", sealed.to_vec()));
    }
    let lists = br#"{"written":2,"names":["condemned/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"],"accounted":7}"#;
    let commit = br#"{"session":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","commit":{"point":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","item_key":"0123456789abcdef"}}"#;
    let roll_json = br#"{"generation":3,"confirmed":true,"points":[{"point":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","item_key":"0123456789abcdef","session":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"}],"settled":["0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"],"accounted":7}"#;
    let tombstone = br#"{"point":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","at":"2026-01-01T00:00:00Z","why":"asked","by":"x","taken_back":["0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"]}"#;
    seeds.extend([
        ("text", lists.to_vec()),
        ("text", commit.to_vec()),
        ("sealed", roll_json.to_vec()),
        ("sealed", tombstone.to_vec()),
    ]);
    if let Ok(parsed) = serde_json::from_slice::<roll::Roll>(roll_json)
        && let Ok(sealed) = roll::ROLL.seal(&keys, "fuzzed", &parsed)
    {
        seeds.push(("sealed", sealed.to_vec()));
    }
    seeds
}
