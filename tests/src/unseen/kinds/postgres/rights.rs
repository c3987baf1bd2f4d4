//! Rights, owners, logins and settings.

use super::super::{Kind, major, minor};

pub const KINDS: &[Kind] = &[
    major("grant-table", &["GRANT SELECT ON item TO reader"]),
    major("revoke-table", &["REVOKE SELECT ON customer FROM reader"]),
    major("grant-column", &["GRANT UPDATE (title) ON item TO reader"]),
    major("grant-function", &["REVOKE EXECUTE ON FUNCTION tax(numeric) FROM PUBLIC"]),
    major("grant-schema", &["GRANT USAGE ON SCHEMA sales TO reader"]),
    major("grant-sequence", &["GRANT USAGE ON SEQUENCE ticket TO reader"]),
    major(
        "default-privileges",
        &["ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader"],
    ),
    major("owner-table", &["ALTER TABLE spare OWNER TO clerk"]).by_administrator(),
    major("owner-function", &["ALTER FUNCTION tax(numeric) OWNER TO clerk"]).by_administrator(),
    major("owner-schema", &["ALTER SCHEMA sales OWNER TO clerk"]).by_administrator(),
    major("database-setting", &["ALTER DATABASE shop SET search_path = sales, public"])
        .by_administrator(),
    major("database-time-zone", &["ALTER DATABASE shop SET timezone = 'Asia/Tokyo'"])
        .by_administrator(),
    major("database-timeout", &["ALTER DATABASE shop SET statement_timeout = '90s'"])
        .by_administrator(),
    minor("role-in-database-setting", &["ALTER ROLE app IN DATABASE shop SET work_mem = '9MB'"])
        .by_administrator(),
    major("role-setting", &["ALTER ROLE clerk SET datestyle = 'German'"]).by_administrator(),
    major("database-grant", &["GRANT CREATE ON DATABASE shop TO reader"]).by_administrator(),
    major("database-revoke", &["REVOKE CONNECT ON DATABASE shop FROM PUBLIC"]).by_administrator(),
    minor("database-limit", &["ALTER DATABASE shop CONNECTION LIMIT 60"]).by_administrator(),
    minor("database-comment", &["COMMENT ON DATABASE shop IS 'ours'"]).by_administrator(),
    major("login-new", &["CREATE ROLE visitor LOGIN; GRANT SELECT ON item TO visitor"])
        .by_administrator(),
    major("login-through-group", &["CREATE ROLE alice LOGIN IN ROLE reader"]).by_administrator(),
    major("login-closed", &["ALTER ROLE clerk NOLOGIN"]).by_administrator(),
    // Verifiers have salts: one that differs may be of the same password.
    minor("password-changed", &["ALTER ROLE clerk PASSWORD 'second'"]).by_administrator(),
    major("membership-new", &["GRANT reader TO app"]).by_administrator(),
    major("membership-revoked", &["REVOKE reader FROM clerk"]).by_administrator(),
    major("role-attribute", &["ALTER ROLE clerk CREATEDB BYPASSRLS"]).by_administrator(),
    minor("role-limit", &["ALTER ROLE clerk CONNECTION LIMIT 3"]).by_administrator(),
    major("role-expiry", &["ALTER ROLE clerk VALID UNTIL '2030-01-01'"]).by_administrator(),
];
