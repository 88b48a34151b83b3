//! The command line: `--name=value` arguments, separated by spaces, as MirageOS has them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::str::FromStr;

use smoltcp::wire::Ipv4Cidr;

/// The exit status of a guest that was called with bad arguments.
pub const USAGE_EXIT_STATUS: i32 = 2;

/// What is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// `{0}` is not of the form --name=value
    #[error("`{0}` is not of the form --name=value")]
    Form(String),
    /// the argument --{0} is given twice
    #[error("the argument --{0} is given twice")]
    Twice(String),
    /// there is no argument --{0}
    #[error("there is no argument --{0}")]
    Unknown(String),
    /// the argument --{0} is missing
    #[error("the argument --{0} is missing")]
    Missing(&'static str),
    /// --{name}={value}: expected {expected}
    #[error("--{name}={value}: expected {expected}")]
    Value {
        /// the argument's name
        name: &'static str,
        /// what was given
        value: String,
        /// what would have been right
        expected: &'static str,
    },
}

/// The arguments that nobody has taken yet.
#[derive(Debug)]
pub struct Arguments<'a> {
    left: Vec<(&'a str, &'a str)>,
}

impl<'a> Arguments<'a> {
    /// Splits a command line.
    ///
    /// # Errors
    /// Where an argument has another form or comes twice.
    pub fn parse(command_line: &'a str) -> Result<Arguments<'a>, ArgumentError> {
        let mut left: Vec<(&str, &str)> = Vec::new();
        for word in command_line.split_ascii_whitespace() {
            let argument = word.strip_prefix("--").and_then(|rest| rest.split_once('='));
            let (name, value) = argument.ok_or_else(|| ArgumentError::Form(word.to_string()))?;
            if left.iter().any(|(other, _)| *other == name) {
                return Err(ArgumentError::Twice(name.to_string()));
            }
            left.push((name, value));
        }
        Ok(Arguments { left })
    }

    /// Takes an argument out; `expected` says in a few words what a right value is.
    ///
    /// # Errors
    /// Where its value does not parse.
    pub fn take<T: FromStr>(&mut self, name: &'static str, expected: &'static str) -> Result<Option<T>, ArgumentError> {
        let Some(index) = self.left.iter().position(|(given, _)| *given == name) else { return Ok(None) };
        let (_, value) = self.left.remove(index);
        let parsed = value.parse();
        parsed.map(Some).map_err(|_| ArgumentError::Value { name, value: value.to_string(), expected })
    }

    /// Takes the addresses out: `--ipv4=10.0.0.2/24` and, optional, `--ipv4-gateway=10.0.0.1`.
    ///
    /// # Errors
    /// Where the address is missing or one of them does not parse.
    pub fn take_addresses(&mut self) -> Result<Addresses, ArgumentError> {
        let address = self.take("ipv4", "an address and its prefix length, as in 10.0.0.2/24")?;
        let gateway: Option<Ipv4Addr> = self.take("ipv4-gateway", "an address, as in 10.0.0.1")?;
        Ok(Addresses { address: address.ok_or(ArgumentError::Missing("ipv4"))?, gateway })
    }

    /// Takes an address and port out.
    ///
    /// # Errors
    /// Where it does not parse.
    pub fn take_endpoint(&mut self, name: &'static str) -> Result<Option<SocketAddrV4>, ArgumentError> {
        self.take(name, "an address and a port, as in 10.0.0.1:9000")
    }

    /// Takes a number from 1 up out.
    ///
    /// # Errors
    /// Where it is none.
    pub fn take_count(&mut self, name: &'static str) -> Result<Option<u64>, ArgumentError> {
        let count: Option<core::num::NonZeroU64> = self.take(name, "a whole number from 1 up")?;
        Ok(count.map(core::num::NonZeroU64::get))
    }

    /// Ends the parsing.
    ///
    /// # Errors
    /// Where an argument is left that nobody took.
    pub fn finish(self) -> Result<(), ArgumentError> {
        match self.left.first() {
            Some((name, _)) => Err(ArgumentError::Unknown((*name).to_string())),
            None => Ok(()),
        }
    }
}

/// The guest's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// own address and network
    pub address: Ipv4Cidr,
    /// where packets for other networks go
    pub gateway: Option<Ipv4Addr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_the_command_line() {
        let mut arguments = Arguments::parse("--ipv4=10.0.0.2/24  --ipv4-gateway=10.0.0.1").unwrap();
        let addresses = arguments.take_addresses().unwrap();
        assert_eq!(addresses.address.to_string(), "10.0.0.2/24");
        assert_eq!(addresses.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        arguments.finish().unwrap();
    }

    #[test]
    fn each_mistake_is_named() {
        let message = |line: &str| {
            let parse = |line| {
                let mut arguments = Arguments::parse(line)?;
                arguments.take_addresses()?;
                arguments.take_count("count")?;
                arguments.finish()
            };
            let error: ArgumentError = parse(line).unwrap_err();
            error.to_string()
        };
        assert_eq!(message("ipv4"), "`ipv4` is not of the form --name=value");
        assert_eq!(message(""), "the argument --ipv4 is missing");
        assert_eq!(message("--ipv4=10.0.0.2/24 --ipv4=10.0.0.3/24"), "the argument --ipv4 is given twice");
        assert_eq!(message("--ipv4=10.0.0.2/24 --colour=red"), "there is no argument --colour");
        assert_eq!(
            message("--ipv4=10.0.0.2/33"),
            "--ipv4=10.0.0.2/33: expected an address and its prefix length, as in 10.0.0.2/24"
        );
        assert_eq!(message("--ipv4=10.0.0.2/24 --count=0"), "--count=0: expected a whole number from 1 up");
    }
}
