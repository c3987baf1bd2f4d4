//! Applying to PostgreSQL.
