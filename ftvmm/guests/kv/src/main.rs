//! `kv --ipv4=10.0.0.2/24 [--ipv4-gateway=10.0.0.1] [--port=6379] [--disk-mib=16]`
//!
//! Serves keys and values over RESP2 on the network device `service`, and keeps them on the block device `storage`, or
//! on its first so many MiB: at its start it reads half of what it has.
#![no_std]
#![no_main]

extern crate alloc;

mod devices;
mod listener;

use alloc::boxed::Box;
use core::num::NonZeroU16;

use devices::{RoundClock, StorageDisk};
use engine::database::Database;
use engine::server::Server;
use engine::storage::superblock::SuperblockError;
use listener::Listener;
use sdk::arguments::{Addresses, ArgumentError, Arguments, USAGE_EXIT_STATUS};
use sdk::block::BlockDevice;
use sdk::boot::BootInfo;
use sdk::clock::Clock;
use sdk::network::{Network, NetworkError};

sdk::guest!(main, [network "service", block "storage"]);

/// While the device refuses writes, a commit is tried again after so long, in nanoseconds.
const RETRY_NANOSECONDS: u64 = 100_000_000;
/// Live data gets an eighth of the heap: in memory it takes several times as much as in the log, and a scrub holds it twice.
const HEAP_PARTS_OF_DATA: u64 = 8;
/// A value gets so small a part of the heap that every connection may be sending one.
const HEAP_PARTS_OF_VALUE: u64 = 256;
/// The longest value where memory does not matter, in bytes.
const VALUE_BYTES_MAX: u64 = 1 << 20;

struct Settings {
    addresses: Addresses,
    port: u16,
    disk_mib: Option<u64>,
}

impl Settings {
    fn parse(command_line: &str) -> Result<Settings, ArgumentError> {
        let mut arguments = Arguments::parse(command_line)?;
        let addresses = arguments.take_addresses()?;
        let port: Option<NonZeroU16> = arguments.take("port", "a port number")?;
        let disk_mib = arguments.take_count("disk-mib")?;
        arguments.finish()?;
        Ok(Settings { addresses, disk_mib, port: port.map_or(6379, NonZeroU16::get) })
    }
}

/// Why the guest cannot serve.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Network(#[from] NetworkError),
    #[error("the host attached no block device `storage`")]
    NoStorage,
    #[error("the block device `storage` has blocks of {0} bytes, which sectors of 512 bytes do not fit")]
    BlockSize(u16),
    #[error("the block device `storage` has less than the {0} MiB that --disk-mib asks for")]
    DiskSize(u64),
    #[error("storage: {0}")]
    Storage(#[from] SuperblockError),
}

fn main(boot_info: &'static BootInfo) -> i32 {
    let settings = match Settings::parse(boot_info.command_line()) {
        Ok(settings) => settings,
        Err(error) => {
            sdk::println!("kv: {error}");
            return USAGE_EXIT_STATUS;
        }
    };
    match serve(boot_info, &settings) {
        Ok(()) => 0,
        Err(error) => {
            sdk::println!("kv: {error}");
            1
        }
    }
}

fn serve(boot_info: &'static BootInfo, settings: &Settings) -> Result<(), StartError> {
    let clock = Clock::start(boot_info.cycle_frequency);
    let seed = clock.seed();
    let mut now = clock.nanoseconds();
    let mut network = Network::open(boot_info, "service", &settings.addresses, seed, now)?;

    let device = BlockDevice::open(boot_info, "storage").ok_or(StartError::NoStorage)?;
    if 512 % u32::from(device.block_bytes().max(1)) != 0 {
        return Err(StartError::BlockSize(device.block_bytes()));
    }
    let heap_bytes = boot_info.memory_bytes.saturating_sub(boot_info.image_end);
    let disk = StorageDisk::of(device, settings.disk_mib);
    let disk = disk.ok_or(StartError::DiskSize(settings.disk_mib.unwrap_or_default()))?;
    let database = Database::open(Box::new(disk), seed, heap_bytes / HEAP_PARTS_OF_DATA)?;
    let round_clock = RoundClock::default();
    let value_bytes_max = (heap_bytes / HEAP_PARTS_OF_VALUE).min(VALUE_BYTES_MAX) as usize;
    let mut server = Server::new(database, Box::new(round_clock.clone()), value_bytes_max);
    let mut listener = Listener::new(settings.port, value_bytes_max);

    print_messages(&mut server);
    sdk::println!("kv: serving {} port {} as {}", settings.addresses.address, settings.port, network.mac());
    let mut readable = true; // a frame may have come before the first wait
    loop {
        round_clock.begin_round();
        if readable {
            network.receive(now, listener.sockets());
        }
        listener.serve(&mut server);
        network.transmit(now, listener.sockets());
        print_messages(&mut server);
        if server.is_shut_down() {
            sdk::println!("kv: a client asked for the end");
            return Ok(());
        }
        let mut idle = network.idle_nanoseconds(now, listener.sockets());
        if server.database().failure().is_some() {
            idle = Some(idle.unwrap_or(u64::MAX).min(RETRY_NANOSECONDS));
        }
        readable = sdk::poll::wait(idle);
        now = clock.nanoseconds();
    }
}

fn print_messages(server: &mut Server) {
    for message in server.database().take_messages() {
        sdk::println!("kv: {message}");
    }
}
