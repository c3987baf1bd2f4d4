//! A number that the operator gives or leaves to us.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `"auto"`, or what the operator says, which is never second-guessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Setting {
    /// Chosen from what the servers report.
    #[default]
    Auto,
    /// As configured.
    Fixed(u64),
}

impl Setting {
    /// What the operator said, if anything.
    pub fn fixed(self) -> Option<u64> {
        match self {
            Setting::Auto => None,
            Setting::Fixed(value) => Some(value),
        }
    }

    /// A count: the operator's, or `auto`; at least 1.
    pub(crate) fn count_or(self, auto: usize) -> usize {
        let given = self.fixed().map(|value| usize::try_from(value).unwrap_or(usize::MAX));
        given.unwrap_or(auto).max(1)
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Setting::Auto => serializer.serialize_str("auto"),
            Setting::Fixed(value) => serializer.serialize_u64(*value),
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Setting;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a whole number or \"auto\"")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Setting, E> {
        Ok(Setting::Fixed(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Setting, E> {
        let value = u64::try_from(value);
        value.map(Setting::Fixed).map_err(|_| E::custom("a number that is not negative is wanted"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Setting, E> {
        match value {
            "auto" => Ok(Setting::Auto),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct File {
        workers: Setting,
    }

    #[test]
    fn a_number_or_auto() {
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.workers);
        assert_eq!(read("workers = 3").unwrap(), Setting::Fixed(3));
        assert_eq!(read("workers = 'auto'").unwrap(), Setting::Auto);
        for wrong in ["workers = -1", "workers = 'many'", "workers = 1.5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
