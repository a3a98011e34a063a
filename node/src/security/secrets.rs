//! What the node knows of users from files: passwords of PLAIN, keys of token issuers. Replaced while it runs when the files
//! change; never shown.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{constant_time, hmac, rand};

use super::certificates::{Refresh, read_bounded};
use super::sasl::SaslConfig;
use super::sasl::oauth::Keys;

/// Users in a file.
const MAX_PLAIN_USERS: usize = 100_000;

/// What the files held.
struct Held {
    plain: HashMap<String, hmac::Tag>,
    keys: Keys,
}

/// See the module. Copies share everything.
#[derive(Clone)]
pub struct Secrets {
    held: Arc<RwLock<Held>>,
    /// Of this process alone: passwords are compared under it, and what unknown users are asked comes of it.
    mask: Arc<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Default for Secrets {
    fn default() -> Self {
        let mut mask = [0; 32];
        // A system without randomness has no TLS and no nonces either; here it would only show which users exist.
        let _weak = rand::fill(&mut mask);
        let held = Held { plain: HashMap::new(), keys: Keys::default() };
        Self { held: Arc::new(RwLock::new(held)), mask: Arc::new(mask) }
    }
}

impl Secrets {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn load(config: &SaslConfig) -> Result<Self, String> {
        let secrets = Self::default();
        for mut file in secrets.files(config) {
            file.refresh()?;
        }
        Ok(secrets)
    }

    /// The files that the settings name, to be watched.
    #[must_use]
    pub fn watched(&self, config: &SaslConfig) -> Vec<Box<dyn Refresh>> {
        let mut files = self.files(config);
        for file in &mut files {
            // Errors come again when they are looked at in earnest.
            let _read = file.refresh();
        }
        files.into_iter().map(|file| Box::new(file) as Box<dyn Refresh>).collect()
    }

    fn files(&self, config: &SaslConfig) -> Vec<SecretFile> {
        let file = |path: &Path, kind| SecretFile { path: path.to_owned(), kind, seen: None, secrets: self.clone() };
        let plain = config.plain_users.as_deref().map(|path| file(path, Kind::PlainUsers));
        let keys = config.oauth.as_ref().and_then(|oauth| oauth.keys.as_deref()).map(|path| file(path, Kind::Keys));
        plain.into_iter().chain(keys).collect()
    }

    /// Replaces the users of PLAIN: `NAME:PASSWORD` in each line, `#` begins a comment.
    ///
    /// # Errors
    /// A line that is something else.
    pub fn set_plain_users(&self, text: &str) -> Result<(), String> {
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let parts = line.split_once(':').filter(|(name, password)| !name.is_empty() && !password.is_empty());
            let (name, password) = parts.ok_or_else(|| format!("line {number} is not of the form NAME:PASSWORD"))?;
            users.insert(name.to_owned(), self.tag(password.as_bytes()));
        }
        if users.len() > MAX_PLAIN_USERS {
            return Err(format!("{} users; {MAX_PLAIN_USERS} are the most", users.len()));
        }
        self.held.write().unwrap_or_else(PoisonError::into_inner).plain = users;
        Ok(())
    }

    /// Replaces the keys of token issuers.
    pub fn set_keys(&self, keys: Keys) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).keys = keys;
    }

    /// Whether this is that user's password; takes as long for an unknown user.
    pub(crate) fn plain_matches(&self, user: &str, password: &[u8]) -> bool {
        let tag = self.tag(password);
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let expected = held.plain.get(user);
        let compared = expected.unwrap_or(&tag).as_ref();
        let same = constant_time::verify_slices_are_equal(tag.as_ref(), compared).is_ok();
        same && expected.is_some()
    }

    pub(crate) fn with_keys<T>(&self, use_them: impl FnOnce(&Keys) -> T) -> T {
        use_them(&self.held.read().unwrap_or_else(PoisonError::into_inner).keys)
    }

    pub(crate) fn mask(&self) -> &[u8] {
        self.mask.as_slice()
    }

    fn tag(&self, password: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.mask.as_slice()), password)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    PlainUsers,
    Keys,
}

/// A file that is looked at again and again.
struct SecretFile {
    path: PathBuf,
    kind: Kind,
    seen: Option<Vec<u8>>,
    secrets: Secrets,
}

impl Refresh for SecretFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn refresh(&mut self) -> Result<bool, String> {
        let bytes = read_bounded(&self.path)?;
        if self.seen.as_ref() == Some(&bytes) {
            return Ok(false);
        }
        let text = String::from_utf8(bytes.clone()).map_err(|_| format!("{}: it is no text", self.path.display()))?;
        self.seen = Some(bytes);
        let in_file = |why: String| format!("{}: {why}", self.path.display());
        match self.kind {
            Kind::PlainUsers => self.secrets.set_plain_users(&text).map_err(in_file)?,
            Kind::Keys => self.secrets.set_keys(Keys::parse(&text).map_err(in_file)?),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_users_is_used_anew_when_it_changed_and_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let config = SaslConfig { plain_users: Some(path.clone()), ..SaslConfig::default() };
        assert!(Secrets::load(&config).unwrap_err().contains("users"));
        std::fs::write(&path, "alice:one\n").unwrap();
        let secrets = Secrets::load(&config).unwrap();
        let mut watched = secrets.watched(&config);
        assert!(secrets.plain_matches("alice", b"one"));
        assert_eq!(watched[0].refresh(), Ok(false));
        std::fs::write(&path, "alice\n").unwrap();
        assert!(watched[0].refresh().unwrap_err().contains("line 1"));
        assert!(secrets.plain_matches("alice", b"one"), "the old ones stay");
        std::fs::write(&path, "alice:two\n").unwrap();
        assert_eq!(watched[0].refresh(), Ok(true));
        assert!(secrets.plain_matches("alice", b"two") && !secrets.plain_matches("alice", b"one"));
        assert!(!format!("{secrets:?}").contains("two"));
    }
}
