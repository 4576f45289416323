//! Simple tokens: sixteen random letters, and what the holder of one is called.
//!
//! They live in the memory of the member that gave them out, and are gone with it: who held one
//! logs in again. Each use prolongs a token's life by its time to live. Their number is bounded; the
//! one that has the least time left makes room for a new one.
//!
//! The letters are the secret. The number behind the dot is the log's position when the token was
//! made, as in etcd, where a member that lags behind knows by it that it has to wait.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::chance::Chance;
use crate::limits::TOKENS_MAX;

const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LENGTH: usize = 16;

/// The tokens with a clock.
pub(super) struct Tokens {
    table: Mutex<Table>,
    zero: tokio::time::Instant,
}

impl Tokens {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            table: Mutex::new(Table { ttl, most: TOKENS_MAX, by_token: HashMap::new() }),
            zero: tokio::time::Instant::now(),
        }
    }

    fn table(&self) -> (MutexGuard<'_, Table>, Duration) {
        (self.table.lock().expect("a panic under this lock ends the process"), self.zero.elapsed())
    }

    pub(super) fn assign(&self, user: String, index: u64, chance: &Chance) -> String {
        let letters = chance.secret::<LENGTH>().map(|byte| usize::from(byte) % LETTERS.len());
        let letters = letters.map(|at| char::from(LETTERS[at]));
        let token = format!("{}.{index}", String::from_iter(letters));
        let (mut table, now) = self.table();
        table.insert(token.clone(), user, now);
        token
    }

    /// Whose it is; being asked prolongs its life.
    pub(super) fn user(&self, token: &str) -> Option<String> {
        let (mut table, now) = self.table();
        table.user(token, now)
    }

    pub(super) fn forget(&self, token: &str) {
        self.table().0.by_token.remove(token);
    }

    pub(super) fn forget_user(&self, user: &str) {
        self.table().0.by_token.retain(|_, entry| entry.user != user);
    }

    pub(super) fn forget_all(&self) {
        self.table().0.by_token.clear();
    }
}

struct Entry {
    user: String,
    /// Since the process's own zero.
    dies: Duration,
}

/// Tokens without a clock: whoever asks says what time it is.
struct Table {
    ttl: Duration,
    /// How many there may be.
    most: usize,
    by_token: HashMap<String, Entry>,
}

impl Table {
    fn insert(&mut self, token: String, user: String, now: Duration) {
        if self.by_token.len() >= self.most {
            self.by_token.retain(|_, entry| entry.dies > now);
        }
        if self.by_token.len() >= self.most {
            let first = self.by_token.iter().min_by_key(|(_, entry)| entry.dies);
            if let Some(token) = first.map(|(token, _)| token.clone()) {
                self.by_token.remove(&token);
            }
        }
        self.by_token.insert(token, Entry { user, dies: now + self.ttl });
    }

    fn user(&mut self, token: &str, now: Duration) -> Option<String> {
        let entry = self.by_token.get_mut(token)?;
        if entry.dies <= now {
            self.by_token.remove(token);
            return None;
        }
        entry.dies = now + self.ttl;
        Some(entry.user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn table(most: usize) -> Table {
        Table { ttl: 10 * SECOND, most, by_token: HashMap::new() }
    }

    #[test]
    fn use_prolongs_a_token_and_idleness_ends_it() {
        let mut table = table(9);
        table.insert("t".into(), "alice".into(), SECOND);
        for now in [2, 11, 20] {
            assert_eq!(table.user("t", now * SECOND), Some("alice".into()), "at {now}");
        }
        assert_eq!(table.user("t", 30 * SECOND), None);
        assert!(table.by_token.is_empty(), "what has died is not kept");
    }

    #[test]
    fn the_one_nearest_to_its_end_makes_room() {
        let mut table = table(2);
        table.insert("a".into(), "alice".into(), SECOND);
        table.insert("b".into(), "bob".into(), 2 * SECOND);
        assert!(table.user("a", 3 * SECOND).is_some());
        table.insert("c".into(), "carol".into(), 4 * SECOND);
        assert_eq!(table.user("b", 4 * SECOND), None);
        assert!(table.user("a", 4 * SECOND).is_some());
        // At 14 both have died, so both go for a new one.
        table.insert("d".into(), "dave".into(), 14 * SECOND);
        assert_eq!(table.by_token.len(), 1);
    }

    #[tokio::test]
    async fn tokens_are_letters_and_an_index_and_can_be_taken_back() {
        let chance = Chance::from_system();
        let tokens = Tokens::new(SECOND);
        let token = tokens.assign("alice".into(), 42, &chance);
        let (letters, index) = token.split_once('.').unwrap();
        assert!(letters.len() == LENGTH && letters.chars().all(|c| c.is_ascii_alphabetic()));
        assert_eq!(index, "42");
        let other = tokens.assign("alice".into(), 42, &chance);
        let bobs = tokens.assign("bob".into(), 42, &chance);
        assert_ne!(token, other);
        tokens.forget(&token);
        assert_eq!(tokens.user(&token), None);
        assert_eq!(tokens.user(&other), Some("alice".into()));
        tokens.forget_user("alice");
        assert_eq!(tokens.user(&other), None);
        assert_eq!(tokens.user(&bobs), Some("bob".into()));
        tokens.forget_all();
        assert_eq!(tokens.user(&bobs), None);
    }
}
