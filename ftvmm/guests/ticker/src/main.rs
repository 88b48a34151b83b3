//! `ticker --ipv4=10.0.0.2/24 [--ipv4-gateway=...] --target=10.0.0.1:9000 [--period-ms=20] [--count=N]`
//!
//! Sends the datagram `tick 000042 <nanoseconds since boot>` to the target and prints the same line on the console, at a
//! fixed period read from the clock. The numbers have no gap; a tick that could not be sent in time is left out of the
//! schedule, not of the numbers. With `--count` it halts after that many.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec;
use core::net::SocketAddrV4;

use schedule::Schedule;
use sdk::arguments::{Addresses, ArgumentError, Arguments, USAGE_EXIT_STATUS};
use sdk::boot::BootInfo;
use sdk::clock::Clock;
use sdk::network::{Network, NetworkError};
use sdk::smoltcp::iface::SocketSet;
use sdk::smoltcp::socket::udp;
use sdk::smoltcp::wire::{IpAddress, IpEndpoint};

sdk::guest!(main, [network "service"]);

/// The port that the datagrams come from.
const SOURCE_PORT: u16 = 9000;
/// Datagrams that wait for the target's MAC.
const DATAGRAMS_MAX: usize = 64;

struct Settings {
    addresses: Addresses,
    target: SocketAddrV4,
    period_nanoseconds: u64,
    count: u64,
}

impl Settings {
    fn parse(command_line: &str) -> Result<Settings, ArgumentError> {
        let mut arguments = Arguments::parse(command_line)?;
        let settings = Settings {
            addresses: arguments.take_addresses()?,
            target: arguments.take_endpoint("target")?.ok_or(ArgumentError::Missing("target"))?,
            period_nanoseconds: arguments.take_count("period-ms")?.unwrap_or(20).saturating_mul(1_000_000),
            count: arguments.take_count("count")?.unwrap_or(u64::MAX),
        };
        arguments.finish()?;
        Ok(settings)
    }
}

fn main(boot_info: &'static BootInfo) -> i32 {
    match Settings::parse(boot_info.command_line()) {
        Err(error) => {
            sdk::println!("ticker: {error}");
            USAGE_EXIT_STATUS
        }
        Ok(settings) => match run(boot_info, &settings) {
            Ok(()) => 0,
            Err(error) => {
                sdk::println!("ticker: {error}");
                1
            }
        },
    }
}

fn run(boot_info: &'static BootInfo, settings: &Settings) -> Result<(), NetworkError> {
    let clock = Clock::start(boot_info.cycle_frequency);
    let mut network = Network::open(boot_info, "service", &settings.addresses, clock.seed(), clock.nanoseconds())?;
    let buffer =
        || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS_MAX], vec![0; DATAGRAMS_MAX * 64]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    // Fails on port 0 or a socket that is bound already.
    let _ = socket.bind(SOURCE_PORT);
    let mut sockets = SocketSet::new(vec![]);
    let handle = sockets.add(socket);
    let target = IpEndpoint::new(IpAddress::Ipv4(*settings.target.ip()), settings.target.port());

    let mut now = clock.nanoseconds();
    let mut schedule = Schedule::start(now, settings.period_nanoseconds);
    let mut number: u64 = 0;
    let mut readable = true; // a frame may have come before the first wait
    loop {
        if readable {
            network.receive(now, &mut sockets);
        }
        if schedule.tick(now) {
            number += 1;
            let line = format!("tick {number:06} {now}\n");
            sdk::print!("{line}");
            // A full buffer means that the target has not answered for a second and more: the datagram is lost.
            let _ = sockets.get_mut::<udp::Socket>(handle).send_slice(line.trim_end().as_bytes(), target);
        }
        network.transmit(now, &mut sockets);
        if number >= settings.count {
            return Ok(());
        }
        let idle = network.idle_nanoseconds(now, &sockets).unwrap_or(u64::MAX);
        readable = sdk::poll::wait(Some(idle.min(schedule.wait(now))));
        now = clock.nanoseconds();
    }
}
