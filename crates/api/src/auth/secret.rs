//! Secrets: made, hashed with argon2id, and compared; few at a time, since each comparison takes 19 MiB.

use crate::limits;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::{Condvar, Mutex};
use ring::rand::{SecureRandom, SystemRandom};

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
    /// Running, and waiting.
    load: Mutex<(usize, usize)>,
    freed: Condvar,
    /// Compared with where there is no account, so that this takes as long.
    nobody: String,
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
        Ok(Self { load: Mutex::new((0, 0)), freed: Condvar::new(), nobody })
    }

    /// Whether `secret` is the one of `hash`. Without a hash it takes as long and says wrong.
    pub(super) fn check(&self, hash: Option<&str>, secret: &str) -> Verdict {
        {
            let mut load = self.load.lock();
            if load.0 >= limits::SECRET_CHECKS_MAX && load.1 >= limits::SECRET_CHECKS_WAITING_MAX {
                return Verdict::Busy;
            }
            load.1 += 1;
            while load.0 >= limits::SECRET_CHECKS_MAX {
                self.freed.wait(&mut load);
            }
            load.1 -= 1;
            load.0 += 1;
        }
        // Given back also when a comparison panics.
        struct Running<'a>(&'a SecretChecker);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.load.lock().0 -= 1;
                self.0.freed.notify_one();
            }
        }
        let _running = Running(self);
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

    #[test]
    fn secrets_and_hashes() {
        let (a, b) = (generate_secret().unwrap(), generate_secret().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == SECRET_LETTERS && a.bytes().all(|c| c.is_ascii_alphanumeric()), "{a}");
        let hash = hash_secret(&a).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_secret(&a).unwrap(), "each has a salt of its own");
        let checker = SecretChecker::new().unwrap();
        assert_eq!(checker.check(Some(&hash), &a), Verdict::Right);
        assert_eq!(checker.check(Some(&hash), &b), Verdict::Wrong);
        assert_eq!(checker.check(Some(&hash), ""), Verdict::Wrong);
        assert_eq!(checker.check(Some("no hash"), &a), Verdict::Wrong);
        assert_eq!(checker.check(None, &a), Verdict::Wrong);
    }

    #[test]
    fn few_at_a_time() {
        let checker = SecretChecker::new().unwrap();
        let hash = hash_secret("x").unwrap();
        let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
            let many = (limits::SECRET_CHECKS_MAX + limits::SECRET_CHECKS_WAITING_MAX) * 4;
            let threads: Vec<_> =
                (0..many).map(|_| scope.spawn(|| checker.check(Some(&hash), "x"))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(verdicts.contains(&Verdict::Right), "{verdicts:?}");
        assert!(verdicts.contains(&Verdict::Busy), "{verdicts:?}");
        assert!(!verdicts.contains(&Verdict::Wrong), "{verdicts:?}");
        assert_eq!(*checker.load.lock(), (0, 0));
    }
}
