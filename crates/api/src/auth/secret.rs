//! Secrets: made, hashed with argon2id, and compared; few at a time, since each comparison takes 19 MiB.

use crate::http::Source;
use crate::limits;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::{Condvar, Mutex};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;

use super::Unavailable;

/// Letters and digits alone: nothing that a shell, an option parser or a URL would read as something else.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const SECRET_LETTERS: usize = 40;

/// A new secret of some 238 bits.
pub fn generate_secret() -> Result<String, Unavailable> {
    let random = SystemRandom::new();
    let mut out = String::with_capacity(SECRET_LETTERS);
    while out.len() < SECRET_LETTERS {
        let mut bytes = [0; 64];
        random.fill(&mut bytes).map_err(|_| Unavailable(String::from("the system has no random numbers")))?;
        // Below 4 * 62, so that each letter is as likely as any other.
        let letters = bytes.iter().filter(|b| **b < 248).map(|b| char::from(ALPHABET[usize::from(b % 62)]));
        out.extend(letters.take(SECRET_LETTERS - out.len()));
    }
    Ok(out)
}

/// A secret's hash, as a PHC string. Takes some tens of milliseconds.
pub fn hash_secret(secret: &str) -> Result<String, Unavailable> {
    let hash: Result<argon2::password_hash::phc::PasswordHash, _> = argon()?.hash_password(secret.as_bytes());
    hash.map(|h| h.to_string()).map_err(|e| Unavailable(format!("hashing a secret: {e}")))
}

fn argon() -> Result<Argon2<'static>, Unavailable> {
    let params = Params::new(limits::ARGON2_MEMORY_KIB, limits::ARGON2_PASSES, limits::ARGON2_LANES, None)
        .map_err(|e| Unavailable(format!("argon2: {e}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Compares secrets, a few at a time.
pub(super) struct SecretChecker {
    load: Mutex<Load>,
    freed: Condvar,
    /// Compared with where there is no account, so that this takes as long.
    nobody: String,
}

#[derive(Default)]
struct Load {
    running: usize,
    waiting: usize,
    /// Both, by where they come from: nobody's guesses keep all others waiting.
    by_source: HashMap<Source, usize>,
}

/// What a comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Too many are waiting.
    Busy,
}

impl SecretChecker {
    pub(super) fn new() -> Result<Self, Unavailable> {
        let nobody = hash_secret(&generate_secret()?)?;
        Ok(Self { load: Mutex::default(), freed: Condvar::new(), nobody })
    }

    /// Whether `secret` is the one of `hash`. Without a hash it takes as long and says wrong.
    pub(super) fn check(&self, hash: Option<&str>, secret: &str, source: Source) -> Verdict {
        {
            let mut load = self.load.lock();
            let is_full = load.running >= limits::SECRET_CHECKS_MAX
                && load.waiting >= limits::SECRET_CHECKS_WAITING_MAX;
            let of_source = load.by_source.get(&source).copied().unwrap_or_default();
            if is_full || of_source >= limits::SECRET_CHECKS_PER_ADDRESS_MAX {
                return Verdict::Busy;
            }
            load.by_source.insert(source, of_source + 1);
            load.waiting += 1;
            while load.running >= limits::SECRET_CHECKS_MAX {
                self.freed.wait(&mut load);
            }
            load.waiting -= 1;
            load.running += 1;
        }
        // Given back also when a comparison panics.
        struct Running<'a>(&'a SecretChecker, Source);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                let mut load = self.0.load.lock();
                load.running -= 1;
                if let Some(count) = load.by_source.get_mut(&self.1) {
                    *count -= 1;
                    if *count == 0 {
                        load.by_source.remove(&self.1);
                    }
                }
                self.0.freed.notify_one();
            }
        }
        let _running = Running(self, source);
        let right = matches(hash.unwrap_or(&self.nobody), secret);
        if right && hash.is_some() { Verdict::Right } else { Verdict::Wrong }
    }
}

fn matches(hash: &str, secret: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(hash) else {
        tracing::error!("a stored secret's hash cannot be read");
        return false;
    };
    // The parameters are the hash's own: those of an older version still work.
    Argon2::default().verify_password(secret.as_bytes(), &parsed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Process;

    #[test]
    fn secrets_and_hashes() {
        let (a, b) = (generate_secret().unwrap(), generate_secret().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == SECRET_LETTERS && a.bytes().all(|c| c.is_ascii_alphanumeric()), "{a}");
        let hash = hash_secret(&a).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_secret(&a).unwrap(), "each has a salt of its own");
        let checker = SecretChecker::new().unwrap();
        assert_eq!(checker.check(Some(&hash), &a, HERE), Verdict::Right);
        assert_eq!(checker.check(Some(&hash), &b, HERE), Verdict::Wrong);
        assert_eq!(checker.check(Some(&hash), "", HERE), Verdict::Wrong);
        assert_eq!(checker.check(Some("no hash"), &a, HERE), Verdict::Wrong);
        assert_eq!(checker.check(None, &a, HERE), Verdict::Wrong);
    }

    #[test]
    fn few_at_a_time() {
        let checker = SecretChecker::new().unwrap();
        let hash = hash_secret("x").unwrap();
        let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
            let many = (limits::SECRET_CHECKS_MAX + limits::SECRET_CHECKS_WAITING_MAX) as u8 * 4;
            let check = |n| checker.check(Some(&hash), "x", Source::V4([192, 0, 2, n]));
            let threads: Vec<_> = (0..many).map(|n| scope.spawn(move || check(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(verdicts.contains(&Verdict::Right), "{verdicts:?}");
        assert!(verdicts.contains(&Verdict::Busy), "{verdicts:?}");
        assert!(!verdicts.contains(&Verdict::Wrong), "{verdicts:?}");
        // One alone is told so sooner, and others go on.
        let mut load = checker.load.lock();
        assert_eq!((load.running, load.waiting, load.by_source.len()), (0, 0, 0));
        load.by_source.insert(HERE, limits::SECRET_CHECKS_PER_ADDRESS_MAX);
        drop(load);
        assert_eq!(checker.check(Some(&hash), "x", HERE), Verdict::Busy);
        assert_eq!(checker.check(Some(&hash), "x", Source::LocalUser(1)), Verdict::Right);
    }
}
