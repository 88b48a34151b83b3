//! Commands about keys, whatever their values.

use super::{CommandError, Context, integer, is};
use crate::database::DatabaseError;
use crate::pattern;

pub(super) fn del(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    // All or nothing: a damaged key among them must not leave half of it done.
    for key in words {
        context.database.entry(key)?;
    }
    let mut deleted = 0;
    for key in words {
        if context.database.entry(key)?.is_some() {
            context.database.delete(key);
            deleted += 1;
        }
    }
    context.replies.integer(deleted);
    Ok(())
}

pub(super) fn exists(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let mut count = 0;
    for key in words {
        count += i64::from(context.database.entry(key)?.is_some());
    }
    context.replies.integer(count);
    Ok(())
}

pub(super) fn type_of(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let exists = context.database.entry(words[0])?.is_some();
    context.replies.simple(if exists { "string" } else { "none" });
    Ok(())
}

/// Time to live in milliseconds; -1: for ever, -2: no such key.
fn time_to_live(context: &mut Context, key: &[u8]) -> Result<i64, CommandError> {
    Ok(match context.database.entry(key)?.map(|entry| entry.expires) {
        None => -2,
        Some(None) => -1,
        Some(Some(expires)) => expires.saturating_sub(context.clock.milliseconds()) as i64,
    })
}

pub(super) fn ttl(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let milliseconds = time_to_live(context, words[0])?;
    context.replies.integer(if milliseconds < 0 { milliseconds } else { (milliseconds + 500) / 1000 });
    Ok(())
}

pub(super) fn pttl(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let milliseconds = time_to_live(context, words[0])?;
    context.replies.integer(milliseconds);
    Ok(())
}

fn expire_in(context: &mut Context, words: &[&[u8]], unit: i64, command: &'static str) -> Result<(), CommandError> {
    let (key, amount) = (words[0], integer(words[1])?);
    let now = context.clock.milliseconds();
    let expires = amount.checked_mul(unit).and_then(|amount| amount.checked_add(now as i64));
    let expires = expires.ok_or(CommandError::ExpireTime(command))?;
    let exists = context.database.entry(key)?.is_some();
    if exists && amount <= 0 {
        context.database.delete(key);
    } else if exists {
        context.database.expire(key, Some(expires as u64));
    }
    context.replies.integer(i64::from(exists));
    Ok(())
}

pub(super) fn expire(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    expire_in(context, words, 1000, "expire")
}

pub(super) fn pexpire(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    expire_in(context, words, 1, "pexpire")
}

pub(super) fn persist(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let expires = context.database.entry(words[0])?.is_some_and(|entry| entry.expires.is_some());
    if expires {
        context.database.expire(words[0], None);
    }
    context.replies.integer(i64::from(expires));
    Ok(())
}

/// A list of keys, or their number, would be wrong where it is not known which keys exist.
fn check_all_known(context: &Context) -> Result<(), DatabaseError> {
    if context.database.keyspace().has_damage() { Err(DatabaseError::Damaged) } else { Ok(()) }
}

pub(super) fn keys(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    check_all_known(context)?;
    let keyspace = context.database.keyspace();
    let matching = || keyspace.keys().filter(|key| pattern::matches(words[0], key));
    context.replies.array(matching().count());
    matching().for_each(|key| context.replies.bulk(key));
    Ok(())
}

pub(super) fn dbsize(context: &mut Context, _: &[&[u8]]) -> Result<(), CommandError> {
    check_all_known(context)?;
    context.replies.integer(context.database.keyspace().len() as i64);
    Ok(())
}

pub(super) fn flushall(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    if words.len() > 1 || words.iter().any(|word| !is(word, "SYNC") && !is(word, "ASYNC")) {
        return Err(CommandError::Syntax);
    }
    context.database.flush();
    context.replies.simple("OK");
    Ok(())
}
