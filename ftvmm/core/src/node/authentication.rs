//! Every message between nodes carries a keyed hash: corrupted or foreign bytes never reach a decision.

use constant_time_eq::constant_time_eq;
use thiserror::Error;

/// Length of the tag behind each message, in bytes.
pub const TAG_LENGTH: usize = 16;

/// Why a key was refused.
#[derive(Debug, Error)]
pub enum KeyError {
    /// the key must be 64 hexadecimal digits (32 bytes), found {0} characters
    #[error("the key must be 64 hexadecimal digits (32 bytes), found {0} characters")]
    Length(usize),
    /// the key has a character that is not a hexadecimal digit at position {0}
    #[error("the key has a character that is not a hexadecimal digit at position {0}")]
    Digit(usize),
}

/// What a message is for; part of what is hashed, so that a heartbeat cannot be passed off as a log frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// a frame on the logging channel
    LogFrame,
    /// a datagram between the heartbeat sockets
    Heartbeat,
}

/// The key that both nodes of a VM share.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(secret)")
    }
}

impl Key {
    /// Reads a key of 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] when the length or a digit is wrong.
    pub fn from_hexadecimal(text: &str) -> Result<Key, KeyError> {
        let text = text.trim();
        if text.len() != 64 {
            return Err(KeyError::Length(text.chars().count()));
        }
        let mut bytes = [0u8; 32];
        for (index, digit) in text.chars().enumerate() {
            let value = digit.to_digit(16).ok_or(KeyError::Digit(index))? as u8;
            bytes[index / 2] = bytes[index / 2] << 4 | value;
        }
        Ok(Key(bytes))
    }

    /// The tag of a message: keyed BLAKE3 over its purpose, its sender's direction and its bytes.
    pub fn tag(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; TAG_LENGTH] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[match purpose {
            Purpose::LogFrame => 1,
            Purpose::Heartbeat => 2,
        }]);
        for part in parts {
            hasher.update(part);
        }
        let mut tag = [0u8; TAG_LENGTH];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LENGTH]);
        tag
    }

    /// Whether a tag is the one of a message. It takes as long whichever byte differs: a stranger must not be able to find a
    /// tag byte by byte.
    pub fn verify(&self, purpose: Purpose, parts: &[&[u8]], tag: &[u8]) -> bool {
        constant_time_eq(&self.tag(purpose, parts), tag)
    }

    /// Appends the tag to a message.
    pub fn seal(&self, purpose: Purpose, mut message: Vec<u8>) -> Vec<u8> {
        let tag = self.tag(purpose, &[&message]);
        message.extend_from_slice(&tag);
        message
    }

    /// The message without its tag, or `None` when the tag is not this key's.
    pub fn open<'a>(&self, purpose: Purpose, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let split = sealed.len().checked_sub(TAG_LENGTH)?;
        let (message, tag) = sealed.split_at(split);
        self.verify(purpose, &[message], tag).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_hexadecimal(&"5a".repeat(32)).unwrap()
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let sealed = key().seal(Purpose::Heartbeat, b"sign of life".to_vec());
        assert_eq!(key().open(Purpose::Heartbeat, &sealed), Some(&b"sign of life"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key().open(Purpose::Heartbeat, &broken), None, "bit {bit}");
        }
    }

    #[test]
    fn another_purpose_or_another_key_is_refused() {
        let sealed = key().seal(Purpose::Heartbeat, b"x".to_vec());
        assert_eq!(key().open(Purpose::LogFrame, &sealed), None);
        let other = Key::from_hexadecimal(&"5b".repeat(32)).unwrap();
        assert_eq!(other.open(Purpose::Heartbeat, &sealed), None);
        assert_eq!(key().open(Purpose::Heartbeat, b"short"), None);
    }

    #[test]
    fn a_bad_key_says_where() {
        assert_eq!(
            Key::from_hexadecimal("12").unwrap_err().to_string(),
            "the key must be 64 hexadecimal digits (32 bytes), found 2 characters"
        );
        let text = format!("zz{}", "00".repeat(31));
        assert!(Key::from_hexadecimal(&text).unwrap_err().to_string().contains("position 0"));
    }
}
