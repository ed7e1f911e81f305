//! A walk over the protobuf wire format that allocates nothing, before anything is decoded: lengths,
//! depth, counts, and the fields that the schema does not know (they would be lost on writing).
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use crate::error::{Error, Result};
use crate::limits;

/// A message of the schema.
pub(super) struct Message {
    name: &'static str,
    /// Bytes of its struct.
    size: usize,
    fields: &'static [Field],
}

/// A field of a message.
pub(super) struct Field {
    number: u32,
    name: &'static str,
    kind: Kind,
}

/// How a field is stored.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A nested message: its index in `MESSAGES`.
    Message(usize),
    Text,
    Bytes,
    /// With the bytes of its value in memory.
    Varint(usize),
    Fixed32,
    Fixed64,
}

include!(concat!(env!("OUT_DIR"), "/fields.rs"));

/// A field that the schema of ONNX does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Message it stands in, such as `NodeProto`.
    pub message: &'static str,
    /// Field number.
    pub number: u32,
}

/// Walks `bytes` as a `ModelProto` and gives the distinct unknown fields, in order of appearance.
///
/// # Errors
/// [`crate::error::Kind::Format`] with the byte offset where the bytes stop being protobuf,
/// [`crate::error::Kind::Limit`] when depth, counts or the memory that decoding takes exceed [`crate::limits`].
pub fn scan(bytes: &[u8]) -> Result<Vec<UnknownField>> {
    let root = MESSAGES.iter().position(|message| message.name == "ModelProto").unwrap_or(0);
    let mut walk = Walk {
        bytes,
        fields: 0,
        packed: 0,
        decoded: 0,
        messages: vec![0; MESSAGES.len()],
        unknown: Vec::new(),
    };
    walk.message(root, 0, bytes.len(), 1)?;
    Ok(walk.unknown)
}

struct Walk<'a> {
    bytes: &'a [u8],
    fields: u64,
    packed: u64,
    /// Bytes of memory that the messages take, beside their numbers.
    decoded: usize,
    /// How many there are of each message.
    messages: Vec<usize>,
    unknown: Vec<UnknownField>,
}

impl Walk<'_> {
    fn message(&mut self, index: usize, start: usize, end: usize, depth: usize) -> Result<()> {
        if depth > limits::MESSAGE_DEPTH {
            return Err(Error::limit(
                format!("byte {start}"),
                format!("messages are nested more than {} deep", limits::MESSAGE_DEPTH),
            ));
        }
        let Some(message) = MESSAGES.get(index) else { return Ok(()) };
        self.takes(message.size, start)?;
        let most = match message.name {
            "NodeProto" => limits::NODES,
            "TensorProto" => limits::INITIALIZERS,
            _ => limits::MESSAGES,
        };
        if let Some(count) = self.messages.get_mut(index) {
            *count += 1;
            if *count > most {
                return Err(Error::limit(
                    format!("byte {start}"),
                    format!("more than {most} {}", message.name),
                ));
            }
        }
        let mut at = start;
        while at < end {
            self.fields += 1;
            if self.fields > limits::FIELDS {
                return Err(Error::limit(
                    format!("byte {at}"),
                    format!("more than {} protobuf fields", limits::FIELDS),
                ));
            }
            let field_start = at;
            let tag = self.varint(&mut at, end)?;
            let (number, wire_type) = (tag >> 3, tag & 7);
            let number =
                u32::try_from(number).ok().filter(|n| (1..1 << 29).contains(n)).ok_or_else(|| {
                    malformed(field_start, format!("field number {number} in {}", message.name))
                })?;
            let field = message.fields.iter().find(|field| field.number == number);
            let length = match wire_type {
                0 => {
                    self.varint(&mut at, end)?;
                    0
                }
                1 => 8,
                2 => usize::try_from(self.varint(&mut at, end)?).unwrap_or(usize::MAX),
                5 => 4,
                other => {
                    return Err(malformed(field_start, format!("wire type {other} in {}", message.name)));
                }
            };
            if length > end - at {
                return Err(malformed(
                    field_start,
                    format!(
                        "field {} of {} announces {length} bytes, {} are left",
                        field.map_or_else(|| number.to_string(), |field| field.name.to_owned()),
                        message.name,
                        end - at
                    ),
                ));
            }
            match field {
                None => self.note_unknown(message.name, number),
                Some(field) => self.known(field, wire_type, at, length, depth)?,
            }
            at += length;
        }
        Ok(())
    }

    fn known(&mut self, field: &Field, wire_type: u64, at: usize, length: usize, depth: usize) -> Result<()> {
        let fits = match field.kind {
            Kind::Message(_) | Kind::Text | Kind::Bytes => wire_type == 2,
            Kind::Varint(_) => matches!(wire_type, 0 | 2),
            Kind::Fixed32 => matches!(wire_type, 5 | 2),
            Kind::Fixed64 => matches!(wire_type, 1 | 2),
        };
        if !fits {
            return Err(malformed(at, format!("field {} has wire type {wire_type}", field.name)));
        }
        match field.kind {
            Kind::Message(nested) => self.message(nested, at, at + length, depth + 1),
            Kind::Text => self.takes(size_of::<String>() + length, at),
            // A slice of the file.
            Kind::Bytes => self.takes(size_of::<bytes::Bytes>(), at),
            Kind::Varint(_) | Kind::Fixed32 | Kind::Fixed64 => {
                if let (Kind::Varint(size), 2) = (field.kind, wire_type) {
                    let packed = self.bytes.get(at..at + length).unwrap_or_default();
                    let count = packed.iter().filter(|byte| **byte < 0x80).count();
                    self.takes((size * count).saturating_sub(2 * length), at)?;
                } else if wire_type != 2 {
                    // A number that is not packed may be one of many.
                    self.takes(8, at)?;
                }
                self.packed += length as u64;
                if self.packed > limits::PACKED_BYTES {
                    return Err(Error::limit(
                        format!("byte {at}"),
                        format!("more than {} bytes of numbers outside raw_data", limits::PACKED_BYTES),
                    )
                    .help("save the model with raw_data or external data"));
                }
                Ok(())
            }
        }
    }

    /// Counts `bytes` of memory, beside those of numbers that are as long in the file, for what stands at `at`.
    fn takes(&mut self, bytes: usize, at: usize) -> Result<()> {
        self.decoded += bytes;
        if self.decoded > limits::DECODED_BYTES {
            let what = format!(
                "beside its weights it would take more than {} bytes of memory",
                limits::DECODED_BYTES
            );
            return Err(Error::limit(format!("byte {at}"), what));
        }
        Ok(())
    }

    fn note_unknown(&mut self, message: &'static str, number: u32) {
        let field = UnknownField { message, number };
        if self.unknown.len() < 64 && !self.unknown.contains(&field) {
            self.unknown.push(field);
        }
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64> {
        let start = *at;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            if *at >= end {
                return Err(malformed(start, "the data ends inside a number".to_owned()));
            }
            let byte = self.bytes.get(*at).copied().unwrap_or(0);
            *at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed(start, "a number of more than 64 bits".to_owned()))
    }
}

fn malformed(at: usize, what: String) -> Error {
    Error::format(format!("byte {at}"), format!("not a well-formed ONNX file: {what}"))
        .help("the file is cut short, damaged or of another kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nested_messages_and_notes_unknown_fields() {
        // ir_version = 8; graph (7) of 2 bytes holding field 99 (unknown) as a varint 1.
        let bytes = [0x08, 8, 0x3a, 3, 0x98, 0x06, 1];
        let unknown = scan(&bytes).expect("well-formed");
        assert_eq!(unknown, [UnknownField { message: "GraphProto", number: 99 }]);
    }

    #[test]
    fn names_the_offset_of_a_length_past_the_end() {
        let error = scan(&[0x08, 8, 0x3a, 0x7f]).expect_err("cut short");
        assert!(error.to_string().starts_with("byte 2: "), "{error}");
    }

    #[test]
    fn refuses_bad_varints_field_zero_and_groups() {
        for bytes in [&[0xff; 11][..], &[0x00, 0x00], &[0x0b, 0x0c], &[0x0e], &[0x08]] {
            assert!(scan(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = scan(&bytes);
        }
    }
}
