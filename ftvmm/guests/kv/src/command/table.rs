//! The table of commands, the frequent ones first.

use super::{Command, Run, connection, keys, numbers, set, storage, strings};

const fn data(name: &'static str, arity: i32, run: Run) -> Command {
    Command { name, arity, data: true, run }
}

const fn control(name: &'static str, arity: i32, run: Run) -> Command {
    Command { name, arity, data: false, run }
}

pub(super) static TABLE: &[Command] = &[
    data("GET", 2, strings::get),
    data("SET", -3, set::set),
    data("INCR", 2, numbers::incr),
    data("DEL", -2, keys::del),
    data("MGET", -2, strings::mget),
    data("MSET", -3, strings::mset),
    data("EXISTS", -2, keys::exists),
    control("PING", -1, connection::ping),
    data("APPEND", 3, strings::append),
    data("DECR", 2, numbers::decr),
    data("INCRBY", 3, numbers::incrby),
    data("DECRBY", 3, numbers::decrby),
    data("SETNX", 3, set::setnx),
    data("SETEX", 4, set::setex),
    data("PSETEX", 4, set::psetex),
    data("GETDEL", 2, strings::getdel),
    data("STRLEN", 2, strings::strlen),
    data("TYPE", 2, keys::type_of),
    data("TTL", 2, keys::ttl),
    data("PTTL", 2, keys::pttl),
    data("EXPIRE", 3, keys::expire),
    data("PEXPIRE", 3, keys::pexpire),
    data("PERSIST", 2, keys::persist),
    data("UNLINK", -2, keys::del),
    data("KEYS", 2, keys::keys),
    data("DBSIZE", 1, keys::dbsize),
    data("FLUSHALL", -1, keys::flushall),
    data("FLUSHDB", -1, keys::flushall),
    data("SCRUB", 1, storage::scrub),
    control("INFO", -1, storage::info),
    control("ECHO", 2, connection::echo),
    control("SELECT", 2, connection::select),
    control("CLIENT", -2, connection::client),
    control("CONFIG", -2, connection::config),
    control("COMMAND", -1, connection::command),
    control("HELLO", -1, connection::hello),
    control("QUIT", -1, connection::quit),
    control("RESET", 1, connection::reset),
    control("SHUTDOWN", -1, connection::shutdown),
];

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn no_name_comes_twice() {
        let mut names: Vec<&str> = TABLE.iter().map(|command| command.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
