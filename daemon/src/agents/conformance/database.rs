//! Conversations in a database.
