//! The least time in which SQLite makes a message durable: writes the rows that Switchboard writes for a message, with
//! `synchronous=FULL` and group commit, but without checks and a network.

use std::path::Path;

use rusqlite::{Connection, params};
use switchboard_store::sqlite;

use super::append::{BatchCommit, TimedMessage};

/// A database that has Switchboard's tables, with a conversation and a member for each sender.
pub(crate) struct Sqlite {
    db: Connection,
    body: String,
}

impl Sqlite {
    /// Creates a database whose writes are not synced, for data that can be rebuilt from a log.
    pub(crate) fn unsynced(file: &Path, senders: usize, len: usize) -> anyhow::Result<Self> {
        let sqlite = Self::new(file, senders, len)?;
        sqlite.db.execute_batch("PRAGMA synchronous = OFF")?;
        Ok(sqlite)
    }

    /// Creates a database with Switchboard's tables and settings; `len` is the length of a message's text in bytes.
    pub(crate) fn new(file: &Path, senders: usize, len: usize) -> anyhow::Result<Self> {
        let db = Connection::open(file)?;
        db.execute_batch(sqlite::SETTINGS)?;
        db.execute_batch(sqlite::SCHEMA)?;
        db.execute_batch("BEGIN")?;
        for n in 0..senders as i64 {
            db.execute("INSERT INTO users (id, name) VALUES (?1, ?2)", params![n, format!("u{n}")])?;
            db.execute(
                "INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
                 VALUES (?1, ?2, 0, 0, 0, 0, 2, 0, 0)",
                params![n, format!("@u{n}:v{n}")],
            )?;
            db.execute(
                "INSERT INTO members (conversation, user, role, since, read, received, sent, read_messages, read_sent)
                 VALUES (?1, ?1, 1, 0, 0, 0, 0, 0, 0)",
                params![n],
            )?;
        }
        db.execute_batch("COMMIT")?;
        Ok(Self { db, body: format!(r#"{{"text":"{}"}}"#, "x".repeat(len)) })
    }
}

impl BatchCommit for Sqlite {
    fn commit(&mut self, batch: &[TimedMessage]) -> anyhow::Result<()> {
        let at = 1_763_899_200_000_i64;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        {
            let mut event = self.db.prepare_cached(
                "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
                 VALUES (?1, ?2, 1, ?1, ?3, ?2, ?4, ?5)",
            )?;
            let mut conversation = self.db.prepare_cached(
                "UPDATE conversations SET head = ?2, messages = ?2, last_message = ?2, at = ?3 WHERE id = ?1",
            )?;
            let mut member = self
                .db
                .prepare_cached("UPDATE members SET sent = ?2 WHERE conversation = ?1 AND user = ?1")?;
            for TimedMessage { sender, number, .. } in batch {
                let (sender, seq) = (*sender as i64, *number as i64 + 1);
                event.execute(params![sender, seq, at, seq.to_string(), self.body])?;
                conversation.execute(params![sender, seq, at])?;
                member.execute(params![sender, seq])?;
            }
        }
        Ok(self.db.execute_batch("COMMIT")?)
    }
}
