//! Manifests: what a recovery point is. Writing one with create-if-absent is the commit.
//! See `docs/vault-format.md`, section 6.

use crate::crypto::{Id, TAG_BYTES, VaultKeys, hash16, random};
use crate::error::{Result, StoreError};
use crate::limits::{DISK_SIZE_MAX_BYTES, DISKS_MAX, MANIFEST_MAX_BYTES};
use crate::tree::DiskTree;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::policy::Policy;
use strongroom_domain::retention::PointReason;
use strongroom_domain::{Consistency, ItemName, PointId, SessionId};

pub const POINTS_PREFIX: &str = "points/";
const MAGIC: [u8; 8] = *b"SRPOINT\x01";
const HEAD_BYTES: usize = 56;
const BOUND_BYTES: usize = 40;

/// What a recovery point is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// A machine: its definition and its disks.
    Machine,
    /// A disk image by itself, of no machine.
    Image,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its id, which is part of its object's name.
    pub point: PointId,
    /// What it is a point of.
    pub item: ItemName,
    /// What it was taken of.
    pub kind: PointKind,
    /// The instant the data is of.
    pub taken_at: Timestamp,
    /// When the point was complete.
    pub committed_at: Timestamp,
    /// The point that it was compared with; it is whole without it. None: with none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PointId>,
    /// What the data is fit for, and why it is no better.
    pub consistency: Consistency,
    /// At most [`DISKS_MAX`].
    pub disks: Vec<Disk>,
    /// None: it is of no machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// Why it was made and what was promised of it. None: by a program that did not write it down yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Promise>,
    /// What whoever restores it is to know, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Free for the writer.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// Bytes this point added to the vault, compressed.
    pub stored_bytes: u64,
    /// The session that made it: of several that tried to, only this one's counts.
    pub session: SessionId,
    /// Program and version.
    pub writer: String,
}

/// What a manifest says of why the point was made. What a later program wrote otherwise spoils no manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Promise {
    /// What this program understands.
    Known(Kept),
    /// Anything else, as it was found: it may promise anything.
    NotUnderstood(serde_json::Value),
}

/// Why a point was made, and until when it was promised to be kept when it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Why it was made.
    pub reason: PointReason,
    /// The run it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// Of one made on demand its own date, or none; of a scheduled one what the policy gave when it was made, which the
    /// policy's changes change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
    /// By which rules.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "understood")]
    pub policy: Option<Box<KeptPolicy>>,
}

/// A policy as it was when a point was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptPolicy {
    /// What it was called.
    pub name: String,
    /// What it said.
    pub rules: Policy,
}

impl Kept {
    /// Of a point that somebody wanted. Without a date nothing lets it go by itself.
    pub fn on_demand(keep_until: Option<Timestamp>) -> Self {
        Self { reason: PointReason::OnDemand, scheduled_for: None, keep_until, policy: None }
    }
}

/// What is not understood is as if it were not there.
fn understood<'de, D, T>(deserializer: D) -> std::result::Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// One disk of a recovery point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// The name it has in the machine (`vda`), or `disk` for an image.
    pub name: String,
    /// The disk's length, as the machine sees it.
    pub size_bytes: u64,
    /// The root of its tree; none if it is all holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<HexId>,
    /// Bytes read from the source to make this point.
    pub read_bytes: u64,
    /// Bytes that differ from the parent's.
    pub changed_bytes: u64,
    /// Bytes that were in the vault nowhere before.
    pub new_bytes: u64,
    /// Why everything had to be read, where changes were to be expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Free for the writer.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl Disk {
    /// What a reader opens, and what the next point's disk is compared with.
    pub fn tree(&self) -> DiskTree {
        DiskTree { root: self.root.map(|id| id.0), size_bytes: self.size_bytes }
    }
}

/// A machine's definition, kept as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// `libvirt-domain-xml`.
    pub kind: String,
    /// As the hypervisor wrote it.
    pub text: String,
}

/// An id in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexId(pub Id);

impl From<HexId> for String {
    fn from(id: HexId) -> String {
        id.0.to_string()
    }
}

impl TryFrom<String> for HexId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Id::from_hex(&text).map(Self).ok_or("an id has 64 hexadecimal digits")
    }
}

/// The object a point's manifest is in.
pub fn object_name(item_key: &str, point: &PointId) -> String {
    format!("{POINTS_PREFIX}{item_key}/{point}")
}

/// Item key and point by the name of a manifest's object.
pub fn parse_object_name(name: &str) -> Option<(&str, PointId)> {
    let (item_key, point) = name.strip_prefix(POINTS_PREFIX)?.split_once('/')?;
    let point: PointId = point.parse().ok()?;
    (object_name(item_key, &point) == name).then_some((item_key, point))
}

fn additional_data(head: &[u8], item_key: &str) -> Vec<u8> {
    [&head[..BOUND_BYTES], item_key.as_bytes()].concat()
}

pub fn seal(keys: &VaultKeys, manifest: &Manifest) -> Result<Bytes> {
    let invalid = |detail: String| StoreError::Invalid { what: "manifest", detail };
    let json = serde_json::to_vec(manifest).map_err(|e| invalid(e.to_string()))?;
    let mut sealed = Vec::with_capacity(zstd_safe::compress_bound(json.len()));
    zstd_safe::compress(&mut sealed, &json, 3)
        .map_err(|code| invalid(zstd_safe::get_error_name(code).into()))?;
    if (sealed.len() + HEAD_BYTES + TAG_BYTES) as u64 > MANIFEST_MAX_BYTES / 2 {
        return Err(invalid("it is too large: the machine's definition or lists are beyond reason".into()));
    }
    let mut out = Vec::with_capacity(HEAD_BYTES + sealed.len() + TAG_BYTES + 16);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(keys.vault.as_bytes());
    out.extend_from_slice(manifest.point.as_bytes());
    let mut nonce = [0; 12];
    random(&mut nonce)?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&((sealed.len() + TAG_BYTES) as u32).to_le_bytes());
    let additional = additional_data(&out, &keys.item_key(&manifest.item));
    let tag = keys.manifest_key(&manifest.point).seal(nonce, &additional, &mut sealed);
    out.extend_from_slice(&sealed);
    out.extend_from_slice(&tag);
    let hash = hash16(&[&out]);
    out.extend_from_slice(&hash);
    Ok(out.into())
}

/// Opens the manifest in object `name`.
pub fn open(keys: &VaultKeys, name: &str, bytes: &[u8]) -> Result<Manifest> {
    let corrupt = |detail: &str| StoreError::corrupt(name, detail);
    let (item_key, point) =
        parse_object_name(name).ok_or_else(|| corrupt("its name is not that of a point"))?;
    let body = hashed_body(name, bytes, HEAD_BYTES)?;
    let sealed_len = u32::from_le_bytes([body[52], body[53], body[54], body[55]]) as usize;
    if body[..8] != MAGIC || sealed_len != body.len() - HEAD_BYTES {
        return Err(corrupt("it is no manifest"));
    }
    if body[8..24] != keys.vault.as_bytes()[..] || body[24..40] != point.as_bytes()[..] {
        return Err(corrupt("it is of another vault or point"));
    }
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&body[40..52]);
    let mut sealed = body[HEAD_BYTES..].to_vec();
    let plain = keys
        .manifest_key(&point)
        .open(nonce, &additional_data(body, item_key), &mut sealed)
        .ok_or_else(|| corrupt("it does not decrypt: changed, moved, or of another vault"))?;
    let json = bounded_decompress(plain).map_err(|detail| corrupt(&detail))?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|e| corrupt(&format!("it is not what it should be: {e}")))?;
    if manifest.point != point || keys.item_key(&manifest.item) != item_key {
        return Err(corrupt("it names another point or item than its object does"));
    }
    if manifest.disks.len() > DISKS_MAX || manifest.disks.iter().any(|d| d.size_bytes > DISK_SIZE_MAX_BYTES) {
        return Err(corrupt("it names more or larger disks than there can be"));
    }
    Ok(manifest)
}

/// What an object holds before the hash at its end, which it must match.
pub(crate) fn hashed_body<'a>(name: &str, bytes: &'a [u8], head_bytes: usize) -> Result<&'a [u8]> {
    let body_len = bytes
        .len()
        .checked_sub(16)
        .filter(|&len| len > head_bytes)
        .ok_or_else(|| StoreError::corrupt(name, "it is cut short"))?;
    let (body, hash) = bytes.split_at(body_len);
    match hash16(&[body]) == hash {
        true => Ok(body),
        false => Err(StoreError::corrupt(name, "it does not match its hash")),
    }
}

pub(crate) fn bounded_decompress(compressed: &[u8]) -> Result<Vec<u8>, String> {
    let size = zstd_safe::get_frame_content_size(compressed)
        .map_err(|e| e.to_string())?
        .filter(|&size| size <= MANIFEST_MAX_BYTES)
        .ok_or("it says no length, or an impossible one")?;
    let mut out = Vec::with_capacity(size as usize);
    zstd_safe::decompress(&mut out, compressed).map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
    Ok(out)
}

impl Disk {
    /// A disk as it was written, without a reason or attributes.
    pub fn new(name: impl Into<String>, written: &crate::write::DiskWritten) -> Self {
        Self {
            name: name.into(),
            size_bytes: written.tree.size_bytes,
            root: written.tree.root.map(HexId),
            read_bytes: written.read_bytes,
            changed_bytes: written.changed_bytes,
            new_bytes: written.new_bytes,
            full_reason: None,
            attributes: serde_json::Map::new(),
        }
    }
}
