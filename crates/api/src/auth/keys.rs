//! The keys that tokens are signed with: made when there is none young enough, published while any of their tokens
//! can be valid, then removed.

use super::directory::{KeyStore, StoredKey, Unavailable};
use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::sync::Arc;

const KEY_BITS: usize = 2048;

/// A key in use.
pub(super) struct Key {
    id: String,
    created_at: Timestamp,
    pair: RsaKeyPair,
    public: RsaPublicKeyComponents<Vec<u8>>,
}

impl Key {
    /// The key of a store's row, if it is one: its id is the thumbprint of its public half.
    fn open(stored: &StoredKey) -> Result<Self, Unavailable> {
        let unusable = |why: String| Unavailable(format!("signing key {}: {why}", stored.id));
        let der = PrivatePkcs8KeyDer::from_pem_slice(stored.private_key_pem.as_bytes())
            .map_err(|e| unusable(e.to_string()))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| unusable(e.to_string()))?;
        let public: RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
        let id = thumbprint(&public);
        if id != stored.id {
            return Err(unusable(format!("it is {id} in truth")));
        }
        Ok(Self { id, created_at: stored.created_at, pair, public })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Unavailable(String::from("a token could not be signed")))?;
        Ok(signature)
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
    }

    fn to_jwk(&self) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id,
            "n": BASE64.encode(&self.public.n), "e": BASE64.encode(&self.public.e),
        })
    }

    /// Seconds since it was made; below zero if the clock went back.
    fn age(&self, now: Timestamp) -> i64 {
        now.as_second() - self.created_at.as_second()
    }

    fn signs(&self, now: Timestamp) -> bool {
        // One from the far future was made under a wrong clock: it would sign until that time comes.
        (-limits::SIGNING_KEY_ROTATION_SECONDS..limits::SIGNING_KEY_ROTATION_SECONDS).contains(&self.age(now))
    }

    /// Whether a token that it signed may still be valid.
    fn is_live(&self, now: Timestamp) -> bool {
        let longest = limits::ACCESS_TOKEN_SECONDS.max(limits::REFRESH_TOKEN_SECONDS);
        self.age(now) < limits::SIGNING_KEY_ROTATION_SECONDS + longest + limits::TOKEN_LEEWAY_SECONDS
    }
}

/// RFC 7638.
fn thumbprint(public: &RsaPublicKeyComponents<Vec<u8>>) -> String {
    let (e, n) = (BASE64.encode(&public.e), BASE64.encode(&public.n));
    let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    BASE64.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()))
}

/// A new key. Takes some tenths of a second.
pub(super) fn generate(now: Timestamp) -> Result<StoredKey, Unavailable> {
    let failed = |e: String| Unavailable(format!("making a signing key: {e}"));
    // This crate makes the key and does nothing else with it: ring signs, in constant time.
    let key =
        rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS).map_err(|e| failed(e.to_string()))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| failed(e.to_string()))?;
    let id = thumbprint(&pair.public().into());
    Ok(StoredKey { id, private_key_pem: pem.to_string(), created_at: now })
}

/// All keys that count now.
pub(super) struct KeyRing {
    store: Arc<dyn KeyStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Vec<Arc<Key>>,
    read_at: Option<Timestamp>,
}

impl KeyRing {
    pub(super) fn new(store: Arc<dyn KeyStore>) -> Self {
        Self { store, state: Mutex::new(State::default()) }
    }

    /// The key to sign with: the newest, made now if none is young enough.
    pub(super) fn signing(&self, now: Timestamp) -> Result<Arc<Key>, Unavailable> {
        let mut state = self.state.lock();
        let newest =
            |keys: &[Arc<Key>]| keys.iter().filter(|k| k.signs(now)).max_by_key(|k| k.created_at).cloned();
        if let Some(key) = newest(&state.keys) {
            return Ok(key);
        }
        // Another process over the same store may have made one.
        self.read(&mut state, now)?;
        if let Some(key) = newest(&state.keys) {
            return Ok(key);
        }
        for dead in state.keys.iter().filter(|k| !k.is_live(now)) {
            self.store.remove(&dead.id)?;
        }
        state.keys.retain(|k| k.is_live(now));
        if state.keys.len() >= limits::SIGNING_KEYS_MAX {
            return Err(Unavailable(String::from("there are too many signing keys")));
        }
        let stored = generate(now)?;
        let key = Arc::new(Key::open(&stored)?);
        self.store.add(&stored)?;
        tracing::info!(kid = stored.id, "a new key signs tokens");
        state.keys.push(key.clone());
        Ok(key)
    }

    /// The key of this id, if tokens of its may be valid.
    pub(super) fn verifying(&self, id: &str, now: Timestamp) -> Result<Option<Arc<Key>>, Unavailable> {
        let mut state = self.state.lock();
        let find = |keys: &[Arc<Key>]| keys.iter().find(|k| k.id == id && k.is_live(now)).cloned();
        if let Some(key) = find(&state.keys) {
            return Ok(Some(key));
        }
        // Made elsewhere meanwhile, perhaps. Whoever sends forged ids must not make us read each time.
        let fresh = |at: Timestamp| {
            (0..limits::SIGNING_KEYS_REREAD_SECONDS).contains(&(now.as_second() - at.as_second()))
        };
        if state.read_at.is_some_and(fresh) {
            return Ok(None);
        }
        self.read(&mut state, now)?;
        Ok(find(&state.keys))
    }

    /// The public halves: `{"keys":[…]}`.
    pub(super) fn published(&self, now: Timestamp) -> Result<Value, Unavailable> {
        // Whoever looks for keys before the first token was signed finds one.
        self.signing(now)?;
        let keys: Vec<Value> =
            self.state.lock().keys.iter().filter(|k| k.is_live(now)).map(|k| k.to_jwk()).collect();
        Ok(json!({ "keys": keys }))
    }

    fn read(&self, state: &mut State, now: Timestamp) -> Result<(), Unavailable> {
        let mut keys = Vec::new();
        for stored in self.store.load()?.iter().take(limits::SIGNING_KEYS_MAX * 2) {
            match state.keys.iter().find(|k| k.id == stored.id) {
                Some(known) => keys.push(known.clone()),
                None => match Key::open(stored) {
                    Ok(key) => keys.push(Arc::new(key)),
                    // One bad row must not keep everybody out: another key signs.
                    Err(cause) => tracing::error!(%cause, "a signing key is left out"),
                },
            }
        }
        state.keys = keys;
        state.read_at = Some(now);
        Ok(())
    }
}
