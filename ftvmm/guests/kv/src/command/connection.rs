//! Commands about the connection and the server, which touch no key.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::table::TABLE;
use super::{CommandError, Context, check_arity, integer, is, subcommand};

pub(super) fn ping(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    match words {
        [] => context.replies.simple("PONG"),
        [text] => context.replies.bulk(text),
        _ => return Err(CommandError::Arity("ping".to_string())),
    }
    Ok(())
}

pub(super) fn echo(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    context.replies.bulk(words[0]);
    Ok(())
}

pub(super) fn select(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    if integer(words[0])? != 0 {
        return Err(CommandError::DatabaseIndex);
    }
    context.replies.simple("OK");
    Ok(())
}

pub(super) fn client(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let (name, words) = (words[0], words);
    let arity = |count, name: &str| check_arity(words, count, name);
    if is(name, "SETNAME") {
        arity(2, "client|setname")?;
        if words[1].iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
            return Err(CommandError::ClientName);
        }
        context.client.name = words[1].to_vec();
        context.replies.simple("OK");
    } else if is(name, "GETNAME") {
        arity(1, "client|getname")?;
        let name = &context.client.name;
        context.replies.bulk_or_nil((!name.is_empty()).then_some(name));
    } else if is(name, "ID") {
        arity(1, "client|id")?;
        context.replies.integer(context.client.id as i64);
    } else if is(name, "SETINFO") {
        arity(3, "client|setinfo")?;
        context.replies.simple("OK");
    } else if is(name, "INFO") || is(name, "LIST") {
        let line = format!("id={} name={} db=0\n", context.client.id, context.client.name.escape_ascii());
        context.replies.bulk(line.as_bytes());
    } else if is(name, "NO-EVICT") || is(name, "NO-TOUCH") {
        context.replies.simple("OK");
    } else {
        return Err(subcommand(name, "CLIENT"));
    }
    Ok(())
}

pub(super) fn config(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    if !is(words[0], "GET") {
        return Err(subcommand(words[0], "CONFIG"));
    }
    check_arity(words, -2, "config|get")?;
    let settings = [
        ("appendonly", "yes".to_string()),
        ("databases", "1".to_string()),
        ("maxmemory", context.database.stored_bytes_max().to_string()),
        ("proto-max-bulk-len", context.value_bytes_max.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_string()),
    ];
    let asked = |name: &str| {
        words[1..].iter().any(|pattern| crate::pattern::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let found: Vec<_> = settings.iter().filter(|(name, _)| asked(name)).collect();
    context.replies.map(found.len());
    for (name, value) in found {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    Ok(())
}

/// Clients ask for documentation and key positions, and do without.
pub(super) fn command(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    match words.first() {
        Some(word) if is(word, "COUNT") => context.replies.integer(TABLE.len() as i64),
        Some(word) if is(word, "LIST") => {
            context.replies.array(TABLE.len());
            TABLE.iter().for_each(|command| context.replies.bulk(command.name.to_ascii_lowercase().as_bytes()));
        }
        None => {
            context.replies.array(TABLE.len());
            for command in TABLE {
                // name, arity, flags, first key, last key, step
                context.replies.array(6);
                context.replies.bulk(command.name.to_ascii_lowercase().as_bytes());
                context.replies.integer(i64::from(command.arity));
                context.replies.array(0);
                (0..3).for_each(|_| context.replies.integer(0));
            }
        }
        Some(word) if is(word, "DOCS") => context.replies.map(0),
        Some(word) if is(word, "INFO") => context.replies.array(0),
        Some(word) => return Err(subcommand(word, "COMMAND")),
    }
    Ok(())
}

/// HELLO [2 | 3] [SETNAME name]: which version of the protocol to speak.
pub(super) fn hello(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    match words.first().map(|version| integer(version)) {
        None => {}
        Some(Ok(version @ (2 | 3))) => context.replies.resp3 = version == 3,
        Some(_) => return Err(CommandError::Protocol),
    }
    if words.len() > 1 {
        match words[1..] {
            [option, name] if is(option, "SETNAME") => context.client.name = name.to_vec(),
            _ => return Err(CommandError::Syntax),
        }
    }
    context.replies.map(7);
    for (name, value) in [("server", "redis"), ("version", super::storage::VERSION)] {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    context.replies.bulk(b"proto");
    context.replies.integer(if context.replies.resp3 { 3 } else { 2 });
    context.replies.bulk(b"id");
    context.replies.integer(context.client.id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    context.replies.bulk(b"modules");
    context.replies.array(0);
    Ok(())
}

pub(super) fn quit(context: &mut Context, _: &[&[u8]]) -> Result<(), CommandError> {
    context.replies.simple("OK");
    context.client.closing = true;
    Ok(())
}

pub(super) fn reset(context: &mut Context, _: &[&[u8]]) -> Result<(), CommandError> {
    context.client.name.clear();
    context.replies.resp3 = false;
    context.replies.simple("RESET");
    Ok(())
}

/// Ends the guest with status 0, without a reply.
pub(super) fn shutdown(context: &mut Context, _: &[&[u8]]) -> Result<(), CommandError> {
    context.client.closing = true;
    context.statistics.shutdown = true;
    Ok(())
}
