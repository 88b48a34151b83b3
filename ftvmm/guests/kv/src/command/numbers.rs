//! Commands that count.

use alloc::string::ToString;

use super::{CommandError, Context, integer};

fn add(context: &mut Context, key: &[u8], amount: i64) -> Result<(), CommandError> {
    let expires = context.database.entry(key)?.and_then(|entry| entry.expires);
    let number = context.database.value(key)?.map_or(Ok(0), integer)?;
    let sum = number.checked_add(amount).ok_or(CommandError::Overflow)?;
    context.database.set(key, sum.to_string().as_bytes(), expires)?;
    context.replies.integer(sum);
    Ok(())
}

pub(super) fn incr(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    add(context, words[0], 1)
}

pub(super) fn decr(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    add(context, words[0], -1)
}

pub(super) fn incrby(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    add(context, words[0], integer(words[1])?)
}

pub(super) fn decrby(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let amount = integer(words[1])?.checked_neg().ok_or(CommandError::Overflow)?;
    add(context, words[0], amount)
}
