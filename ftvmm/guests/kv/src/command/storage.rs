//! Commands about the state of the server and its storage.

use alloc::format;
use alloc::string::{String, ToString};

use super::{CommandError, Context, is};

/// The version of Redis whose commands these are, which clients ask for.
pub(super) const VERSION: &str = "7.0.0";

/// SCRUB: reads the log back from the device, compares it with memory and writes it anew where they differ. Replies with
/// names and values: `log-bytes`, `keys`, `repaired` (0 or 1), `damages` (a list of messages).
pub(super) fn scrub(context: &mut Context, _: &[&[u8]]) -> Result<(), CommandError> {
    let scrub = context.database.scrub()?;
    context.statistics.scrubs += 1;
    context.replies.map(4);
    let numbers =
        [("log-bytes", scrub.log_bytes), ("keys", scrub.keys as u64), ("repaired", u64::from(scrub.repaired))];
    for (name, number) in numbers {
        context.replies.bulk(name.as_bytes());
        context.replies.integer(number as i64);
    }
    context.replies.bulk(b"damages");
    context.replies.array(scrub.damages.len());
    scrub.damages.iter().for_each(|damage| context.replies.bulk(damage.as_bytes()));
    Ok(())
}

pub(super) fn info(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let sections = [
        ("Server", server(context)),
        ("Clients", format!("connected_clients:{}\r\n", context.statistics.clients)),
        ("Memory", memory(context)),
        ("Storage", storage(context)),
        ("Stats", stats(context)),
        ("Keyspace", keyspace(context)),
    ];
    let everything = ["all", "everything", "default"];
    let asked = |name: &str| {
        words.is_empty() || words.iter().any(|word| is(word, name) || everything.iter().any(|all| is(word, all)))
    };
    let text: String = sections
        .iter()
        .filter(|(name, _)| asked(name))
        .map(|(name, lines)| format!("# {name}\r\n{lines}\r\n"))
        .collect();
    context.replies.bulk(text.trim_end().as_bytes());
    Ok(())
}

fn server(context: &mut Context) -> String {
    let seconds = context.clock.milliseconds().saturating_sub(context.statistics.started_milliseconds) / 1000;
    let name = env!("CARGO_PKG_VERSION");
    format!(
        "redis_version:{VERSION}\r\nredis_mode:standalone\r\nos:Solo5 hvt\r\narch_bits:64\r\nkv_version:{name}\r\n\
         uptime_in_seconds:{seconds}\r\n"
    )
}

fn memory(context: &mut Context) -> String {
    let (used, maximum) = (context.database.keyspace().stored_bytes(), context.database.stored_bytes_max());
    format!("used_memory:{used}\r\nmaxmemory:{maximum}\r\nmaxmemory_policy:noeviction\r\n")
}

fn storage(context: &mut Context) -> String {
    let database = &context.database;
    let (log_bytes, half_bytes) = database.journal().fill();
    let damaged = database.keyspace().damaged_count().map_or("unknown".to_string(), |count| count.to_string());
    let status = database.failure().map_or("ok".to_string(), |error| error.to_string());
    format!(
        "log_generation:{}\r\nlog_bytes:{log_bytes}\r\nlog_bytes_max:{half_bytes}\r\ndamaged_keys:{damaged}\r\n\
         device_status:{status}\r\nscrubs:{}\r\n",
        database.journal().generation(),
        context.statistics.scrubs
    )
}

fn stats(context: &mut Context) -> String {
    let statistics = &context.statistics;
    format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_commits:{}\r\n",
        statistics.connections, statistics.commands, statistics.commits
    )
}

fn keyspace(context: &mut Context) -> String {
    let keyspace = context.database.keyspace();
    if keyspace.is_empty() {
        return String::new();
    }
    format!("db0:keys={},expires={},avg_ttl=0\r\n", keyspace.len(), keyspace.expiring_count())
}
