//! Type OIDs inside binary values, replaced by green's.
//!
//! Arrays carry their element's type OID and composites their fields' (`array_send` in
//! PostgreSQL's `arrayfuncs.c`, `record_send` in `rowtypes.c`), and the receiving server refuses
//! OIDs that are not its own. User-defined types have another OID on every server. An OID is as
//! long as another, so a value is copied once, into the outgoing buffer, and patched there.

/// Types with lower OIDs are built in, and the same everywhere (`FirstGenbkiObjectId`).
pub(crate) const FIRST_VARIABLE_TYPE: u32 = 10_000;

/// What a binary value of one of green's types has inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InnerOids {
    /// No OID of a user-defined type.
    None,
    /// An array.
    Array {
        /// Green's OID of the element's type.
        element: u32,
        /// What each element has inside.
        inside: Box<InnerOids>,
    },
    /// A composite: for each field green's OID of its type and what it has inside.
    Composite(Vec<(u32, InnerOids)>),
}

/// A value that is not what its type says.
struct Malformed;

impl InnerOids {
    /// Whether there is nothing to replace.
    pub fn is_none(&self) -> bool {
        *self == InnerOids::None
    }

    /// Replaces the OIDs in `value`, one whole value in binary form.
    ///
    /// True if the value has the form of the type. One that has not, because blue's type is
    /// another, is left half done for green to judge: its receive functions check every length,
    /// count and OID, and say what is wrong better than we could.
    pub fn replace(&self, value: &mut [u8]) -> bool {
        let mut cursor = Cursor { value, at: 0 };
        self.walk(&mut cursor).is_ok()
    }

    fn walk(&self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        match self {
            InnerOids::None => {
                cursor.at = cursor.value.len();
                Ok(())
            }
            InnerOids::Array { element, inside } => array(cursor, *element, inside),
            InnerOids::Composite(fields) => composite(cursor, fields),
        }
    }
}

/// Dimensions, flags, element type; then length and lower bound of each dimension; then elements.
fn array(cursor: &mut Cursor<'_>, element: u32, inside: &InnerOids) -> Result<(), Malformed> {
    /// `MAXDIM` in `c.h`.
    const DIMENSIONS_MAX: i32 = 6;
    let dimensions = cursor.i32()?;
    if !(0..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(Malformed);
    }
    cursor.i32()?;
    cursor.put(element)?;
    for _ in 0..dimensions {
        cursor.i32()?;
        cursor.i32()?;
    }
    if inside.is_none() {
        return Ok(());
    }
    while !cursor.is_at_end() {
        cursor.sized(inside)?;
    }
    Ok(())
}

/// The number of fields; then type, length and value of each.
fn composite(cursor: &mut Cursor<'_>, fields: &[(u32, InnerOids)]) -> Result<(), Malformed> {
    if usize::try_from(cursor.i32()?) != Ok(fields.len()) {
        return Err(Malformed);
    }
    for (oid, inside) in fields {
        cursor.put(*oid)?;
        cursor.sized(inside)?;
    }
    if cursor.is_at_end() { Ok(()) } else { Err(Malformed) }
}

struct Cursor<'a> {
    value: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn is_at_end(&self) -> bool {
        self.at == self.value.len()
    }

    fn word(&mut self) -> Result<&mut [u8; 4], Malformed> {
        let word = self.value[self.at..].first_chunk_mut::<4>().ok_or(Malformed)?;
        self.at += 4;
        Ok(word)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.word().map(|word| i32::from_be_bytes(*word))
    }

    fn put(&mut self, oid: u32) -> Result<(), Malformed> {
        let word = self.word()?;
        // A built-in type in the place of another is a difference that green must see and refuse.
        if u32::from_be_bytes(*word) >= FIRST_VARIABLE_TYPE && oid >= FIRST_VARIABLE_TYPE {
            *word = oid.to_be_bytes();
        }
        Ok(())
    }

    /// A value with its length before it; -1 stands for NULL.
    fn sized(&mut self, inside: &InnerOids) -> Result<(), Malformed> {
        let length = match self.i32()? {
            -1 => return Ok(()),
            length => usize::try_from(length).map_err(|_| Malformed)?,
        };
        let end = self.at.checked_add(length).ok_or(Malformed)?;
        let value = self.value.get_mut(self.at..end).ok_or(Malformed)?;
        self.at = end;
        if inside.replace(value) { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[i32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn sized(value: &[u8]) -> Vec<u8> {
        [words(&[value.len() as i32]), value.to_vec()].concat()
    }

    fn array_of(element: i32, values: &[Option<&[u8]>]) -> Vec<u8> {
        let elements = values.iter().map(|value| value.map_or(words(&[-1]), sized));
        let head = words(&[1, 0, element, values.len() as i32, 1]);
        elements.fold(head, |all, element| [all, element].concat())
    }

    fn composite_of(fields: &[(i32, Option<&[u8]>)]) -> Vec<u8> {
        let field = |(oid, value): &(i32, Option<&[u8]>)| {
            [words(&[*oid]), value.map_or(words(&[-1]), sized)].concat()
        };
        let head = words(&[fields.len() as i32]);
        fields.iter().map(field).fold(head, |all, field| [all, field].concat())
    }

    fn enums(element: u32) -> InnerOids {
        InnerOids::Array { element, inside: Box::new(InnerOids::None) }
    }

    #[test]
    fn an_array_of_enums() {
        let mut value = array_of(20_000, &[Some(b"sad"), None, Some(b"")]);
        assert!(enums(30_000).replace(&mut value));
        assert_eq!(value, array_of(30_000, &[Some(b"sad"), None, Some(b"")]));
        let mut empty = words(&[0, 0, 20_000]);
        assert!(enums(30_000).replace(&mut empty));
        assert_eq!(empty, words(&[0, 0, 30_000]));
    }

    #[test]
    fn composites_in_arrays_and_arrays_in_composites() {
        let row = |oid, element: i32| {
            let array = array_of(element, &[Some(b"a"), Some(b"b")]);
            composite_of(&[(23, Some(b"\0\0\0\x07")), (oid, Some(&array)), (oid, None)])
        };
        let fields = vec![(23, InnerOids::None), (30_001, enums(30_000)), (30_001, enums(30_000))];
        let inside = Box::new(InnerOids::Composite(fields));
        let rows = InnerOids::Array { element: 30_002, inside };
        let mut value = array_of(20_002, &[Some(&row(20_001, 20_000)), None]);
        assert!(rows.replace(&mut value));
        assert_eq!(value, array_of(30_002, &[Some(&row(30_001, 30_000)), None]));
    }

    #[test]
    fn what_is_not_such_a_value_is_refused_and_never_panics() {
        let whole = composite_of(&[(20_000, Some(b"ab"))]);
        let type_ = InnerOids::Composite(vec![(30_000, InnerOids::None)]);
        for cut in 0..whole.len() {
            assert!(!type_.replace(&mut whole[..cut].to_vec()), "{cut}");
        }
        let two = InnerOids::Composite(vec![(30_000, InnerOids::None), (30_000, InnerOids::None)]);
        assert!(!two.replace(&mut whole.clone()));
        let mut negative = words(&[1, 0, 20, 1, 1, -2]);
        let nested = InnerOids::Array { element: 30, inside: Box::new(enums(1)) };
        assert!(!nested.replace(&mut negative));
    }
}
