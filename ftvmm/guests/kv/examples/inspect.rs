//! `cargo run --example inspect -- IMAGE`: reads the storage of the key-value guest from a copy of its block device, as the
//! guest would at boot, and prints it as JSON: `keys` (names and values in hexadecimal, expiry in milliseconds since 1970),
//! and `messages`, which tell of damage. The file is not changed. Exit status 1 where the guest would refuse the device.

use std::error::Error;
use std::io::Write;

use engine::database::Database;
use engine::keyspace::Lookup;
use engine::storage::disk::{Disk, DiskError};

/// A device in memory, so that what recovery writes stays there.
struct Copy(Vec<u8>);

impl Disk for Copy {
    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        let from = offset as usize;
        data.copy_from_slice(self.0.get(from..from + data.len()).ok_or(DiskError::Read { offset })?);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let from = offset as usize;
        self.0.get_mut(from..from + data.len()).ok_or(DiskError::Write { offset })?.copy_from_slice(data);
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: inspect IMAGE")?;
    let mut database = Database::open(Box::new(Copy(std::fs::read(path)?)), 1, u64::MAX)?;
    let messages: Vec<String> = database.take_messages().iter().map(|message| format!("{message:?}")).collect();
    let keyspace = database.keyspace();
    let mut keys = Vec::new();
    for key in keyspace.keys() {
        let Lookup::Present(entry) = keyspace.lookup(key) else { continue };
        let value = entry.value().map_or("null".to_string(), |value| format!("\"{}\"", hexadecimal(value)));
        let expires = entry.expires.map_or("null".to_string(), |at| at.to_string());
        keys.push(format!("{{\"key\":\"{}\",\"value\":{value},\"expires\":{expires}}}", hexadecimal(key)));
    }
    let damaged = keyspace.has_damage();
    let (keys, messages) = (keys.join(",\n  "), messages.join(",\n  "));
    writeln!(std::io::stdout(), "{{\"damaged\":{damaged},\n \"messages\":[{messages}],\n \"keys\":[{keys}]}}")?;
    Ok(())
}
