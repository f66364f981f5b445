//! What messages of clients take in memory once they are decoded, seen before they are: two bytes may become a string of
//! 24, a turn of seven times as many, or a conversation with an answer.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::v1::{Item, Message};

/// A kind of message: what it takes by itself, and what its fields take beside their bytes.
struct Kind {
    size: usize,
    fields: &'static [(u32, Field)],
}

/// What a field holds.
enum Field {
    Of(&'static Kind),
    /// Another response.
    Response,
    /// Numbers of a byte or more, which become four.
    Ids,
}

/// What a conversation takes until it is answered: its place in queues, and its answer.
const CONVERSATION: usize = 512;
/// What an allocation takes beside what it holds.
const ALLOCATION: usize = 24;

const TURN: Kind = Kind { size: size_of::<Message>() + 2 * ALLOCATION, fields: &[] };
const TURNS: Kind = Kind { size: 0, fields: &[(1, Field::Of(&TURN))] };
const GROUP: Kind = Kind { size: 0, fields: &[(1, Field::Of(&TURNS)), (3, Field::Response)] };
const TOKEN_IDS: Kind = Kind { size: 0, fields: &[(1, Field::Ids)] };
const ITEM: Kind = Kind {
    size: size_of::<Item>() + CONVERSATION,
    fields: &[(1, Field::Of(&TURNS)), (2, Field::Of(&GROUP)), (4, Field::Of(&TOKEN_IDS))],
};
const ITEMS: Kind = Kind { size: 0, fields: &[(1, Field::Of(&ITEM))] };
const STREAMED: Kind = Kind { size: 0, fields: &[(2, Field::Of(&ITEM))] };

/// What a message for this path of HTTP/2 takes beside its own bytes, until it is answered. Of what is no message it is any
/// number.
pub fn weight(path: &str, message: &[u8]) -> usize {
    match path.strip_prefix("/assay.v1.RewardService/") {
        Some("Score" | "Tokenize") => ITEMS.weight(message),
        Some("ScoreStream") => STREAMED.weight(message),
        _ => 0,
    }
}

// === impl Kind ===

impl Kind {
    fn weight(&self, mut message: &[u8]) -> usize {
        let mut sum = self.size;
        while let Some((number, value)) = field(&mut message) {
            sum += match self.fields.iter().find(|(known, _)| *known == number) {
                Some((_, Field::Of(kind))) => kind.weight(value),
                Some((_, Field::Response)) => CONVERSATION + size_of::<String>() + ALLOCATION,
                Some((_, Field::Ids)) => size_of::<u32>() * value.len().max(1),
                None => 0,
            };
        }
        sum
    }
}

/// The next field, and the bytes in it if it has a length.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (number, kind) = decode_key(message).ok()?;
    let length = match kind {
        WireType::Varint => {
            decode_varint(message).ok()?;
            return Some((number, &[]));
        }
        WireType::LengthDelimited => usize::try_from(decode_varint(message).ok()?).ok()?,
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        // no field of ours, and nothing is decoded after it
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (value, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some((number, value))
}

#[cfg(test)]
mod tests;
