//! A network device on an existing TAP interface of the host. See the kernel's `networking/tuntap.rst`.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::DeviceError;
use crate::remark::remark;

pub(super) const KIND: &str = "TAP interface";
const TUN_SET_INTERFACE: libc::c_ulong = 0x4004_54ca;
const TUN_GET_INTERFACE: libc::c_ulong = 0x8004_54d2;
/// An interface has its carrier within milliseconds; without it the frames are lost, as on any network.
const CARRIER_WAIT_MAX: Duration = Duration::from_millis(100);
const CARRIER_LOOK: Duration = Duration::from_micros(100);
/// More than an interface's queue holds (1,000 by default).
const WAITING_FRAMES_MAX: usize = 10_000;
/// Nothing to read, or no room: a frame is lost there, as in any queue of a network.
const NOT_NOW: [i32; 2] = [libc::EAGAIN, libc::ENOBUFS];

/// An open TAP interface; reading does not block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    mtu_bytes: u16,
    /// That a frame was too long has been said.
    told: AtomicBool,
}

impl Tap {
    /// Attaches to the interface of this name.
    ///
    /// # Errors
    /// Where there is none, it is no TAP, another process has it, or the rights are lacking.
    pub fn open(name: &str) -> Result<Tap, DeviceError> {
        let wrong = |reason: String| unopened(name, reason);
        // Attaching to a name that does not exist would create an interface, which nobody would know of.
        let c_name = existing(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| wrong(format!("/dev/net/tun: {error}")))?;
        let mut request = request_for(&c_name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        // SAFETY: the request is an initialised ifreq, which the call only reads and writes within its bounds.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUN_SET_INTERFACE, &mut request) } < 0 {
            return Err(wrong(io::Error::last_os_error().to_string()));
        }
        let mtu_bytes = mtu_of(&c_name).map_err(|error| wrong(error.to_string()))?;
        let tap = Tap { file, name: name.to_owned(), mtu_bytes, told: AtomicBool::new(false) };
        tap.wait_for_carrier(&c_name).map_err(|error| wrong(error.to_string()))?;
        Ok(tap)
    }

    /// Opening gives the interface its carrier, and the kernel tells the bridge a moment later: frames sent before, the
    /// announcement of a go-live and the outputs that it re-issues, would be lost without a trace.
    fn wait_for_carrier(&self, name: &CString) -> io::Result<()> {
        let deadline = Instant::now() + CARRIER_WAIT_MAX;
        loop {
            let flags = i32::from(flags_of(name)?);
            if flags & libc::IFF_UP == 0 || flags & libc::IFF_RUNNING != 0 || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(CARRIER_LOOK);
        }
        // The bridge is told under the lock that this call takes: afterwards it knows.
        self.tell_attached(name)
    }

    /// Asks the kernel what this is attached to; an error where that interface is gone.
    fn tell_attached(&self, name: &CString) -> io::Result<()> {
        let mut request = request_for(name);
        // SAFETY: the request is an initialised ifreq, which the call only writes within its bounds.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), TUN_GET_INTERFACE, &mut request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the interface would take a frame now.
    ///
    /// # Errors
    /// Where it is gone, or is down: it would swallow what comes for the guest, and take nothing of it.
    pub fn check(&self) -> Result<(), DeviceError> {
        let name = existing(&self.name)?;
        // Another of the same name is not the one that is open: that one says so itself.
        let attached = self.tell_attached(&name).and_then(|()| flags_of(&name));
        match attached.map_err(|source| self.failed("check", source))? {
            flags if i32::from(flags) & libc::IFF_UP != 0 => Ok(()),
            _ => Err(self.failed("check", io::Error::from_raw_os_error(libc::ENETDOWN))),
        }
    }

    /// Throws away what came before now.
    pub fn discard_waiting(&self) {
        let mut frame = [0; 1];
        // The kernel's queue is longer than this on no interface; a flood must not hold the VM up.
        for _ in 0..WAITING_FRAMES_MAX {
            if (&self.file).read(&mut frame).is_err() {
                break;
            }
        }
    }

    pub fn mtu_bytes(&self) -> u16 {
        self.mtu_bytes
    }

    /// The MTU of the interface of this name, which stays unattached.
    ///
    /// # Errors
    /// Where there is none.
    pub fn mtu_of(name: &str) -> Result<u16, DeviceError> {
        mtu_of(&existing(name)?).map_err(|error| unopened(name, error.to_string()))
    }

    /// The next frame; `None` where there is none yet, and where it is longer than `capacity` bytes: such a frame is dropped whole, as a
    /// network card drops what exceeds its MTU. What is left of a frame that was cut would be another frame.
    pub fn read(&self, capacity: u32) -> Result<Option<Vec<u8>>, DeviceError> {
        let mut frame = vec![0; capacity as usize + 1];
        match (&self.file).read(&mut frame) {
            Ok(length) if length > capacity as usize => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let name = &self.name;
                    remark(format!(
                        "ftvmm: {KIND} {name:?}: frames of more than {capacity} bytes come and are dropped"
                    ));
                }
                Ok(None)
            }
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(error) if is_not_now(&error) => Ok(None),
            Err(source) => match self.failed("read", source) {
                down if down.is_down() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sends a frame. One that finds a full queue is lost, as on any network.
    ///
    /// # Errors
    /// The operating system's; [`DeviceError::is_down`] where the interface is down, and the frame has not left.
    pub fn write(&self, frame: &[u8]) -> Result<(), DeviceError> {
        match (&self.file).write(frame) {
            Ok(_) => Ok(()),
            Err(error) if is_not_now(&error) => Ok(()),
            Err(source) => Err(self.failed("write", source)),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Failed { kind: KIND, name: self.name.clone(), operation, source }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_not_now(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| NOT_NOW.contains(&number))
}

fn unopened(name: &str, reason: String) -> DeviceError {
    DeviceError::Open { kind: KIND, name: name.to_owned(), reason }
}

/// The name of an interface that exists.
fn existing(name: &str) -> Result<CString, DeviceError> {
    let c_name = CString::new(name)
        .ok()
        .filter(|name| (1..libc::IFNAMSIZ).contains(&name.as_bytes().len()))
        .ok_or_else(|| unopened(name, "that is no name of an interface".into()))?;
    // SAFETY: the name is a valid C string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => Err(unopened(name, format!("there is none: create it with `ip tuntap add {name} mode tap`"))),
        _ => Ok(c_name),
    }
}

fn request_for(name: &CString) -> libc::ifreq {
    // SAFETY: all fields of ifreq are integers, arrays and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *slot = *byte as libc::c_char;
    }
    request
}

/// Asks the kernel for one property of an interface.
fn ask(name: &CString, property: libc::c_ulong) -> io::Result<libc::ifreq> {
    // Any socket will do to ask for it, and this kind needs no address.
    let (socket, _) = std::os::unix::net::UnixDatagram::pair()?;
    let mut request = request_for(name);
    // SAFETY: the request is an initialised ifreq, which the call only reads and writes within its bounds.
    match unsafe { libc::ioctl(socket.as_raw_fd(), property, &mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
    }
}

fn mtu_of(name: &CString) -> io::Result<u16> {
    // SAFETY: the kernel filled in `ifru_mtu`.
    let mtu = unsafe { ask(name, libc::SIOCGIFMTU)?.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn flags_of(name: &CString) -> io::Result<libc::c_short> {
    // SAFETY: the kernel filled in `ifru_flags`.
    Ok(unsafe { ask(name, libc::SIOCGIFFLAGS)?.ifr_ifru.ifru_flags })
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::*;

    pub(crate) fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }

    /// Runs in a network of its own, where the TAP `tap0` is down.
    pub(crate) fn beside_a_tap(test: fn()) {
        let thread = std::thread::spawn(move || {
            // SAFETY: the call moves this thread alone to a new network, and the thread ends with the test.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
            ip("tuntap add tap0 mode tap");
            test();
        });
        thread.join().unwrap();
    }

    #[test]
    fn an_interface_that_is_down_takes_no_frame() {
        beside_a_tap(|| {
            let tap = Tap::open("tap0").unwrap();
            assert!(tap.write(&[0; 60]).unwrap_err().is_down());
            ip("link set tap0 up");
            tap.write(&[0; 60]).unwrap();
        });
    }

    /// The lengths of the UDP datagrams' frames that come out of the interface.
    fn lengths_read(tap: &Tap, capacity: u32) -> Vec<usize> {
        let frames = (0..100).filter_map(|_| tap.read(capacity).unwrap());
        frames.filter(|frame| frame[12..14] == [8, 0] && frame[23] == 17).map(|frame| frame.len()).collect()
    }

    #[test]
    fn a_frame_longer_than_the_guest_takes_is_dropped_whole() {
        beside_a_tap(|| {
            ip("link set tap0 mtu 1400 up");
            let tap = Tap::open("tap0").unwrap();
            assert_eq!(tap.mtu_bytes(), 1400);
            ip("link set tap0 mtu 9000");
            ip("address add 10.9.0.1/24 dev tap0");
            ip("neighbor add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap0");
            let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
            for length in [5000, 1372, 1373, 100] {
                socket.send_to(&vec![7; length], "10.9.0.2:9").unwrap();
            }
            assert_eq!(lengths_read(&tap, 1414), [1414, 142]);
        });
    }

    #[test]
    fn what_came_before_the_vm_is_not_its_own() {
        beside_a_tap(|| {
            ip("link set tap0 up");
            let tap = Tap::open("tap0").unwrap();
            ip("address add 10.9.0.1/24 dev tap0");
            ip("neighbor add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap0");
            let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
            socket.send_to(&[7; 100], "10.9.0.2:9").unwrap();
            tap.discard_waiting();
            socket.send_to(&[7; 200], "10.9.0.2:9").unwrap();
            assert_eq!(lengths_read(&tap, 1514), [242]);
        });
    }

    #[test]
    fn an_interface_that_does_not_exist_is_not_created() {
        let error = Tap::open("ftvmmnone0").unwrap_err().to_string();
        assert!(error.contains("there is none"), "{error}");
        assert!(Tap::open("ftvmmnone0").is_err());
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a-name-that-is-too-long", "zero\0"] {
            assert!(Tap::open(name).unwrap_err().to_string().contains("no name"), "{name:?}");
        }
    }
}
