//! Numbers of bytes and processors in a configuration: `8589934592` or `"8GiB"`, `2` or `1.5`.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units that a number of bytes may have, and what they stand for.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, as 8589934592 or \"8GiB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                let positive = u64::try_from(value).ok().filter(|&value| value > 0);
                let wrong = || E::invalid_value(de::Unexpected::Signed(value), &self);
                positive.map(Bytes).ok_or_else(wrong)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                parse(text).map(Bytes).ok_or_else(wrong)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let (_, times) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    // TOML has no larger numbers, and shows what is in force.
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*times)
        .filter(|&all| (1..=i64::MAX as u64).contains(&all))
}

/// A number of processors, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors(pub u64);

impl Serialize for Processors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_precision_loss, reason = "at most a million thousandths")]
        serializer.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Processors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Processors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of processors from 0.01 to 1000, as 2 or 1.5")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Processors, E> {
                let number = u64::try_from(value).ok().filter(|value| (1..=1000).contains(value));
                let wrong = || E::invalid_value(de::Unexpected::Signed(value), &self);
                number.map(|number| Processors(number * 1000)).ok_or_else(wrong)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Processors, E> {
                if !(0.01..=1000.0).contains(&value) {
                    return Err(E::invalid_value(de::Unexpected::Float(value), &self));
                }
                #[expect(clippy::cast_sign_loss, reason = "it is between 10 and a million")]
                Ok(Processors((value * 1000.0).round() as u64))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        bytes: Bytes,
        processors: Processors,
    }

    fn read(bytes: &str, processors: &str) -> Option<(u64, u64)> {
        let text = format!("bytes = {bytes}\nprocessors = {processors}\n");
        let both: Both = toml::from_str(&text).ok()?;
        // What is shown of it is read as the same.
        assert_eq!(toml::from_str::<Both>(&toml::to_string(&both).unwrap()).unwrap(), both);
        Some((both.bytes.0, both.processors.0))
    }

    #[test]
    fn bytes_and_processors_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("'4GiB'", 4 << 30),
            ("'4 g'", 4 << 30),
            ("'10GB'", 10_000_000_000),
            ("'17'", 17),
            ("'512mib'", 512 << 20),
        ] {
            assert_eq!(read(text, "1"), Some((bytes, 1000)), "{text}");
        }
        for text in ["0", "-1", "'GiB'", "'4 GiBs'", "'1.5GiB'", "'99999999999TiB'", "'0K'", "true"]
        {
            assert_eq!(read(text, "1"), None, "{text}");
        }
        for (text, thousandths) in [("1.5", 1500), ("0.01", 10), ("1000", 1_000_000)] {
            assert_eq!(read("1", text), Some((1, thousandths)), "{text}");
        }
        for text in ["0", "0.001", "-1", "1001", "nan", "inf", "'two'"] {
            assert_eq!(read("1", text), None, "{text}");
        }
    }
}
