//! Partial updates of JSON (`binlog_row_value_options=PARTIAL_JSON`): what to do to the old value.

use super::path::{Leg, parse};
use super::{Json, binary};
use crate::mysql::error::Fault;
use crate::mysql::read::Reader;

const REPLACE: u8 = 0;
const INSERT: u8 = 1;
const REMOVE: u8 = 2;

const NO_SUCH_PLACE: Fault = Fault::Malformed("JSON difference: its place is not in the old value");

/// The new value: the old one, as it was stored, with the differences applied in their order
/// (`json_diff.cc`, `apply_json_diffs`).
pub(in crate::mysql) fn patched(old: &[u8], differences: &[u8]) -> Result<Json, Fault> {
    let mut document = binary::read(old)?;
    let mut reader = Reader::new(differences);
    while !reader.is_empty() {
        let operation = reader.u8()?;
        let path = std::str::from_utf8(reader.packed_bytes()?);
        let path = parse(path.map_err(|_| Fault::InvalidText("UTF-8"))?)?;
        match operation {
            REPLACE => {
                let value = binary::read(reader.packed_bytes()?)?;
                *find(&mut document, &path)? = value;
            }
            INSERT => {
                let value = binary::read(reader.packed_bytes()?)?;
                insert(&mut document, &path, value)?;
            }
            REMOVE => remove(&mut document, &path)?,
            found => {
                let what = "JSON difference";
                return Err(Fault::Unsupported { what, found: found.into() });
            }
        }
    }
    Ok(document)
}

fn find<'a>(document: &'a mut Json, path: &[Leg]) -> Result<&'a mut Json, Fault> {
    path.iter().try_fold(document, |place, leg| {
        let next = match (place, leg) {
            (Json::Object(members), Leg::Member(name)) => {
                members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            (Json::Array(items), Leg::Cell(index)) => items.get_mut(*index),
            _ => None,
        };
        next.ok_or(NO_SUCH_PLACE)
    })
}

fn insert(document: &mut Json, path: &[Leg], value: Json) -> Result<(), Fault> {
    let (leg, parent) = path.split_last().ok_or(NO_SUCH_PLACE)?;
    match (find(document, parent)?, leg) {
        (Json::Object(members), Leg::Member(name)) => {
            let order = |key: &str| (key.len(), key.as_bytes().to_vec());
            match members.binary_search_by_key(&order(name), |(key, _)| order(key)) {
                Ok(_) => return Err(NO_SUCH_PLACE),
                Err(at) => members.insert(at, (name.clone(), value)),
            }
        }
        (Json::Array(items), Leg::Cell(index)) => items.insert((*index).min(items.len()), value),
        _ => return Err(NO_SUCH_PLACE),
    }
    Ok(())
}

fn remove(document: &mut Json, path: &[Leg]) -> Result<(), Fault> {
    let (leg, parent) = path.split_last().ok_or(NO_SUCH_PLACE)?;
    match (find(document, parent)?, leg) {
        (Json::Object(members), Leg::Member(name)) => {
            let at = members.iter().position(|(key, _)| key == name).ok_or(NO_SUCH_PLACE)?;
            members.remove(at);
        }
        (Json::Array(items), Leg::Cell(index)) if *index < items.len() => {
            items.remove(*index);
        }
        _ => return Err(NO_SUCH_PLACE),
    }
    Ok(())
}
