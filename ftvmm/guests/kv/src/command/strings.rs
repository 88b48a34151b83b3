//! Commands that read and change values.

use alloc::string::ToString;

use super::{CommandError, Context};

/// The longest reply to a request for several values, in bytes.
const REPLY_BYTES_MAX: usize = 4 << 20;

pub(super) fn get(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    context.replies.bulk_or_nil(context.database.value(words[0])?);
    Ok(())
}

pub(super) fn mget(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    context.replies.array(words.len());
    let start = context.replies.bytes().len();
    for key in words {
        context.replies.bulk_or_nil(context.database.value(key)?);
        if context.replies.bytes().len() - start > REPLY_BYTES_MAX {
            return Err(CommandError::ReplyTooLong);
        }
    }
    Ok(())
}

pub(super) fn mset(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    if !words.len().is_multiple_of(2) {
        return Err(CommandError::Arity("mset".to_string()));
    }
    let pairs = || words.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    context.database.check_room(pairs())?;
    pairs().for_each(|(key, value)| context.database.put(key, value, None));
    context.replies.simple("OK");
    Ok(())
}

pub(super) fn append(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let (key, tail) = (words[0], words[1]);
    let expires = context.database.entry(key)?.and_then(|entry| entry.expires);
    let mut value = context.database.value(key)?.unwrap_or_default().to_vec();
    if value.len() + tail.len() > context.value_bytes_max {
        return Err(CommandError::ValueTooLong);
    }
    value.extend_from_slice(tail);
    context.database.set(key, &value, expires)?;
    context.replies.integer(value.len() as i64);
    Ok(())
}

pub(super) fn strlen(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    context.replies.integer(context.database.value(words[0])?.map_or(0, <[u8]>::len) as i64);
    Ok(())
}

pub(super) fn getdel(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let value = context.database.value(words[0])?;
    context.replies.bulk_or_nil(value);
    if value.is_some() {
        context.database.delete(words[0]);
    }
    Ok(())
}
