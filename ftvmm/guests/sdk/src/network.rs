//! The network: a smoltcp device over a network handle, and the interface that drives it.
//!
//! Every frame is an exit, so frames are fetched in one go ([`Network::receive`]) and sent in one go
//! ([`Network::transmit`]); in between, the guest serves its sockets at the same point of time.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::arguments::Addresses;
use crate::boot::BootInfo;
use crate::hypercall;
use crate::reassembly;
use crate::resolution::Resolution;
use crate::segments::{Segment, is_repeated_request, segment};

const ETHERNET_HEADER_BYTES: usize = 14;
/// Frames fetched in one go, so that a flood cannot starve the sockets.
const FRAMES_MAX: usize = 128;
/// Rounds of sending in one go; each sends at most one packet a socket.
const TRANSMIT_ROUNDS_MAX: usize = 64;

struct NetworkDevice {
    handle: u64,
    mtu: usize,
    address: Ipv4Cidr,
    received: VecDeque<Vec<u8>>,
    /// buffers of frames that were consumed, to be filled again
    spare: Vec<Vec<u8>>,
    outgoing: Vec<u8>,
    pace: Pace,
    resolution: Resolution,
}

/// How far to fetch. Finding out that no frame is left takes an exit too; while frames come one by one, which every wait
/// confirms, most rounds do without.
#[derive(Default)]
struct Pace {
    /// frames of the last round that fetched all
    last_whole: usize,
    /// rounds since
    rounds: u32,
}

impl Pace {
    /// One round in so many fetches all in any case.
    const WHOLE_ROUND_EVERY: u32 = 4;

    /// How many frames to fetch in this round at most.
    fn limit(&mut self) -> usize {
        self.rounds += 1;
        if self.last_whole <= 1 && self.rounds < Pace::WHOLE_ROUND_EVERY { 1 } else { FRAMES_MAX }
    }

    fn fetched(&mut self, limit: usize, count: usize) {
        if limit > 1 {
            *self = Pace { last_whole: count, rounds: 0 };
        }
    }
}

impl NetworkDevice {
    /// Fetches what is waiting.
    fn fetch(&mut self) {
        let frame_bytes_max = self.mtu + ETHERNET_HEADER_BYTES;
        let limit = self.pace.limit();
        let mut fetched = self.received.len();
        while fetched < limit {
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.resize(frame_bytes_max, 0);
            match hypercall::network_read(self.handle, &mut frame) {
                Ok(length) => {
                    fetched += 1;
                    frame.truncate(length);
                    if reassembly::is_vain_fragment(&frame, self.address) {
                        self.spare.push(frame);
                    } else {
                        self.received.push_back(frame);
                    }
                }
                Err(_) => {
                    self.spare.push(frame);
                    break;
                }
            }
        }
        self.pace.fetched(limit, fetched);
    }
}

struct Incoming<'a> {
    frame: Vec<u8>,
    spare: &'a mut Vec<Vec<u8>>,
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.frame);
        self.spare.push(self.frame);
        result
    }
}

struct Outgoing<'a> {
    handle: u64,
    buffer: &'a mut Vec<u8>,
    resolution: &'a mut Resolution,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.buffer.clear();
        self.buffer.resize(length, 0);
        let result = fill(self.buffer);
        self.resolution.sent(self.buffer);
        // A frame that the host does not take is a lost frame, which the protocols above cope with.
        let _ = hypercall::network_write(self.handle, self.buffer);
        result
    }
}

impl Device for NetworkDevice {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let frame = self.received.pop_front()?;
        let outgoing = Outgoing { handle: self.handle, buffer: &mut self.outgoing, resolution: &mut self.resolution };
        Some((Incoming { frame, spare: &mut self.spare }, outgoing))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing { handle: self.handle, buffer: &mut self.outgoing, resolution: &mut self.resolution })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER_BYTES;
        capabilities
    }
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// the host attached no network device `{0}`
    #[error("the host attached no network device `{0}`")]
    Missing(&'static str),
    /// the host gave the network device an address that is not unicast
    #[error("the host gave the network device an address that is not unicast: {0}")]
    Mac(EthernetAddress),
}

/// The interface of a network device.
pub struct Network {
    device: NetworkDevice,
    interface: Interface,
}

impl Network {
    /// Opens the device of that name. The seed is for sequence numbers and ephemeral ports; the time is in nanoseconds.
    ///
    /// # Errors
    /// Where the manifest lacks the device or gives it no unicast MAC.
    pub fn open(
        boot_info: &BootInfo,
        name: &'static str,
        addresses: &Addresses,
        seed: u64,
        now_nanoseconds: u64,
    ) -> Result<Network, NetworkError> {
        let properties = boot_info.manifest().and_then(|manifest| manifest.network(name));
        let properties = properties.ok_or(NetworkError::Missing(name))?;
        let mac = EthernetAddress(properties.mac);
        if !mac.is_unicast() {
            return Err(NetworkError::Mac(mac));
        }
        let mtu = if properties.mtu == 0 { 1500 } else { usize::from(properties.mtu) };
        let mut device = NetworkDevice {
            handle: properties.handle,
            mtu,
            address: addresses.address,
            received: VecDeque::with_capacity(FRAMES_MAX),
            spare: Vec::new(),
            outgoing: vec![0; mtu + ETHERNET_HEADER_BYTES],
            pace: Pace::default(),
            resolution: Resolution::default(),
        };
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, instant(now_nanoseconds));
        interface.set_reassembly_timeout(reassembly::TIMEOUT);
        // Both have room for several, so neither fails.
        interface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::Ipv4(addresses.address));
        });
        if let Some(gateway) = addresses.gateway {
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        Ok(Network { device, interface })
    }

    /// The MAC of the interface.
    pub fn mac(&self) -> HardwareAddress {
        self.interface.hardware_addr()
    }

    /// The largest IP packet, in bytes.
    pub fn mtu(&self) -> usize {
        self.device.mtu
    }

    /// The interface, which sockets need to connect.
    pub fn interface(&mut self) -> &mut Interface {
        &mut self.interface
    }

    /// Fetches waiting frames and hands them to the sockets. Some may be left, so wait before the next round.
    pub fn receive(&mut self, now_nanoseconds: u64, sockets: &mut SocketSet) {
        self.fetch(now_nanoseconds);
        while self.take_next(now_nanoseconds, sockets) {}
    }

    /// Fetches waiting frames, for [`Network::take_next`].
    pub fn fetch(&mut self, now_nanoseconds: u64) {
        self.device.fetch();
        self.interface.poll_maintenance(instant(now_nanoseconds));
    }

    /// The TCP segment in the frame that is next, where there is one.
    pub fn next_segment(&self) -> Option<Segment> {
        segment(self.device.received.front()?)
    }

    /// Drops the next frame, as if the network had lost it.
    pub fn drop_next(&mut self) {
        self.device.spare.extend(self.device.received.pop_front());
    }

    /// Hands the next frame to the sockets; false where none is left.
    pub fn take_next(&mut self, now_nanoseconds: u64, sockets: &mut SocketSet) -> bool {
        if let Some(frame) = self.device.received.front() {
            if is_repeated_request(frame, sockets) {
                self.drop_next();
                return true;
            }
            self.device.resolution.received(frame);
        }
        let polled = self.interface.poll_ingress_single(instant(now_nanoseconds), &mut self.device, sockets);
        !matches!(polled, PollIngressSingleResult::None)
    }

    /// Whether nobody has answered yet to the question who has this address.
    pub fn is_unresolved(&self, address: Ipv4Address) -> bool {
        self.device.resolution.is_open(address)
    }

    /// Sends what the sockets have.
    pub fn transmit(&mut self, now_nanoseconds: u64, sockets: &mut SocketSet) {
        let now = instant(now_nanoseconds);
        for _ in 0..TRANSMIT_ROUNDS_MAX {
            if matches!(self.interface.poll_egress(now, &mut self.device, sockets), PollResult::None) {
                break;
            }
        }
    }

    /// How long nothing is to be done unless a frame comes, in nanoseconds; None where that is for ever.
    pub fn idle_nanoseconds(&mut self, now_nanoseconds: u64, sockets: &SocketSet) -> Option<u64> {
        let delay = self.interface.poll_delay(instant(now_nanoseconds), sockets)?;
        Some(delay.total_micros().saturating_mul(1000))
    }
}

fn instant(nanoseconds: u64) -> Instant {
    Instant::from_micros((nanoseconds / 1000) as i64)
}
