//! Which types may travel in binary.
//!
//! pgoutput's `binary` is decided per connection, so one unsafe column anywhere in the publication
//! turns it off for all. A type is safe if
//!
//! - it is built in, with an OID that means the same on every server (user-defined types carry
//!   their own OIDs inside arrays and composites, and those differ between servers);
//! - its send format has not changed from PostgreSQL 10 to 18, and its receive function gives
//!   back the same value with any settings.
//!
//! Not safe on purpose, though built in: `xml` (its receive function depends on an encoding
//! declaration in the value), the `reg*` types and `oidvector` (OIDs of objects, different on
//! every server, where text is a name), `refcursor`, `aclitem` and other catalog types.

use postgres_types::{Kind, Type};

/// Whether values of the type mean the same in binary on any PostgreSQL from 10 to 18.
pub fn is_binary_safe(type_oid: u32) -> bool {
    let Some(built_in) = Type::from_oid(type_oid) else {
        return false;
    };
    match built_in.kind() {
        // An array by its kind, but of OIDs that mean objects of one server.
        _ if built_in == Type::OID_VECTOR => false,
        Kind::Array(element) => is_scalar_safe(element) || is_range_safe(element),
        _ => is_scalar_safe(&built_in) || is_range_safe(&built_in),
    }
}

fn is_range_safe(candidate: &Type) -> bool {
    match candidate.kind() {
        Kind::Range(bound) | Kind::Multirange(bound) => is_scalar_safe(bound),
        _ => false,
    }
}

fn is_scalar_safe(candidate: &Type) -> bool {
    const SAFE: &[Type] = &[
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::NUMERIC,
        Type::MONEY,
        Type::CHAR,
        Type::NAME,
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::BYTEA,
        Type::BIT,
        Type::VARBIT,
        Type::DATE,
        Type::TIME,
        Type::TIMETZ,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::INTERVAL,
        Type::UUID,
        Type::JSON,
        Type::JSONB,
        Type::JSONPATH,
        Type::INET,
        Type::CIDR,
        Type::MACADDR,
        Type::MACADDR8,
        Type::POINT,
        Type::LINE,
        Type::LSEG,
        Type::BOX,
        Type::PATH,
        Type::POLYGON,
        Type::CIRCLE,
        Type::TS_VECTOR,
        Type::TSQUERY,
        Type::PG_LSN,
        Type::OID,
        Type::XID,
    ];
    SAFE.contains(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_types_their_arrays_and_ranges_are_safe() {
        let safe = [
            Type::INT4,
            Type::TEXT_ARRAY,
            Type::JSONB,
            Type::INT8_RANGE,
            Type::TSTZ_RANGE_ARRAY,
            Type::NUMMULTI_RANGE,
        ];
        for safe in safe {
            assert!(is_binary_safe(safe.oid()), "{safe}");
        }
    }

    #[test]
    fn types_with_oids_or_settings_inside_are_not() {
        let unsafe_types =
            [Type::XML, Type::XML_ARRAY, Type::REGCLASS, Type::RECORD, Type::OID_VECTOR];
        for unsafe_type in unsafe_types {
            assert!(!is_binary_safe(unsafe_type.oid()), "{unsafe_type}");
        }
        assert!(!is_binary_safe(16_384), "the first OID of user-defined types");
        assert!(!is_binary_safe(0));
    }
}
