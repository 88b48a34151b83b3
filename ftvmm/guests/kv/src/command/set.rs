//! SET and its older relatives.

use super::{CommandError, Context, integer, is};

/// What the options of SET ask for.
#[derive(Default)]
struct Options {
    only_if_absent: bool,
    only_if_present: bool,
    return_old: bool,
    keep_expiry: bool,
    /// milliseconds since 1970
    expires: Option<u64>,
}

impl Options {
    fn parse(context: &mut Context, words: &[&[u8]]) -> Result<Options, CommandError> {
        let mut options = Options::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let expiry_is_free = options.expires.is_none() && !options.keep_expiry;
            if is(word, "NX") && !options.only_if_present {
                options.only_if_absent = true;
            } else if is(word, "XX") && !options.only_if_absent {
                options.only_if_present = true;
            } else if is(word, "GET") {
                options.return_old = true;
            } else if is(word, "KEEPTTL") && options.expires.is_none() {
                options.keep_expiry = true;
            } else if expiry_is_free {
                let units = [("EX", 1000, true), ("PX", 1, true), ("EXAT", 1000, false), ("PXAT", 1, false)];
                let unit = units.into_iter().find(|(name, ..)| is(word, name)).ok_or(CommandError::Syntax)?;
                let amount = rest.next().ok_or(CommandError::Syntax)?;
                options.expires = Some(expiry(context, amount, unit.1, unit.2, "set")?);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

/// An expiry in milliseconds since 1970, of an amount in units of so many milliseconds, from now or from 1970.
fn expiry(
    context: &mut Context,
    amount: &[u8],
    unit: i64,
    from_now: bool,
    command: &'static str,
) -> Result<u64, CommandError> {
    let amount = integer(amount)?;
    let start = if from_now { context.clock.milliseconds() as i64 } else { 0 };
    let expires = amount.checked_mul(unit).filter(|_| amount > 0).and_then(|amount| amount.checked_add(start));
    Ok(expires.ok_or(CommandError::ExpireTime(command))? as u64)
}

pub(super) fn set(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let (key, value) = (words[0], words[1]);
    let options = Options::parse(context, &words[2..])?;
    let mut expires = options.expires;
    if options.only_if_absent || options.only_if_present || options.return_old || options.keep_expiry {
        let entry = context.database.entry(key)?;
        if options.keep_expiry {
            expires = entry.and_then(|entry| entry.expires);
        }
        let exists = entry.is_some();
        let refused = (exists && options.only_if_absent) || (!exists && options.only_if_present);
        if options.return_old {
            context.replies.bulk_or_nil(context.database.value(key)?);
        } else if refused {
            context.replies.bulk_or_nil(None);
        }
        if refused {
            return Ok(());
        }
    }
    context.database.set(key, value, expires)?;
    if !options.return_old {
        context.replies.simple("OK");
    }
    Ok(())
}

pub(super) fn setnx(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let absent = context.database.entry(words[0])?.is_none();
    if absent {
        context.database.set(words[0], words[1], None)?;
    }
    context.replies.integer(i64::from(absent));
    Ok(())
}

pub(super) fn setex(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let expires = expiry(context, words[1], 1000, true, "setex")?;
    context.database.set(words[0], words[2], Some(expires))?;
    context.replies.simple("OK");
    Ok(())
}

pub(super) fn psetex(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let expires = expiry(context, words[1], 1, true, "psetex")?;
    context.database.set(words[0], words[2], Some(expires))?;
    context.replies.simple("OK");
    Ok(())
}
