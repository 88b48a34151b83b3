//! Socket options: what a program has set, and what it is told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use linux_raw_sys::net::{
    AF_INET, IP_BIND_ADDRESS_NO_PORT, IP_FREEBIND, IP_MTU_DISCOVER, IP_MULTICAST_ALL, IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL, IP_PKTINFO, IP_PMTUDISC_OMIT, IP_PMTUDISC_WANT, IP_RECVERR, IP_RECVTOS, IP_RECVTTL, IP_TOS,
    IP_TRANSPARENT, IP_TTL, SO_BROADCAST, SO_BUSY_POLL, SO_DEBUG, SO_DONTROUTE, SO_KEEPALIVE, SO_LINGER, SO_MARK,
    SO_NO_CHECK, SO_OOBINLINE, SO_PASSCRED, SO_PRIORITY, SO_RCVBUF, SO_RCVBUFFORCE, SO_RCVLOWAT, SO_RCVTIMEO,
    SO_REUSEADDR, SO_REUSEPORT, SO_RXQ_OVFL, SO_SNDBUF, SO_SNDBUFFORCE, SO_SNDLOWAT, SO_SNDTIMEO, SO_TIMESTAMP,
    SO_TIMESTAMPNS, SO_ZEROCOPY, SOCK_STREAM, SOL_IP, SOL_SOCKET, SOL_TCP, TCP_CONGESTION, TCP_CORK, TCP_DEFER_ACCEPT,
    TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_INQ, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL,
    TCP_LINGER2, TCP_MAXSEG, TCP_NODELAY, TCP_NOTSENT_LOWAT, TCP_QUICKACK, TCP_SAVE_SYN, TCP_SYNCNT, TCP_THIN_DUPACK,
    TCP_THIN_LINEAR_TIMEOUTS, TCP_USER_TIMEOUT, TCP_WINDOW_CLAMP,
};

use super::Kind;
use crate::clock::NANOSECONDS;
use crate::system_calls::{Errno, errno};

const MICROSECONDS: i64 = 1_000_000;

/// Buffers as Linux has them where nothing is set: net.ipv4.tcp_wmem, net.ipv4.tcp_rmem, net.core.wmem_default and
/// net.core.rmem_default.
const TCP_SEND_BYTES: i32 = 16_384;
const TCP_RECEIVE_BYTES: i32 = 131_072;
const OTHER_BYTES: i32 = 212_992;
/// What a program may ask for: net.core.wmem_max and rmem_max, SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF.
const ASKED_BYTES_MAX: i32 = 212_992;
const FORCED_BYTES_MAX: i32 = 8 << 20;
const SEND_BYTES_MIN: i32 = 4608;
const RECEIVE_BYTES_MIN: i32 = 2304;

/// The congestion controls that programs may name, Debian's own first; none of them is there.
const CONGESTION_CONTROLS: [&[u8]; 2] = [b"cubic", b"reno"];
/// TCP_CA_NAME_MAX
const CONGESTION_CONTROL_BYTES: usize = 16;

/// Which values an option takes.
#[derive(Clone, Copy)]
enum Takes {
    /// zero or not
    Flag,
    /// from, to
    Range(i32, i32),
}

use Takes::{Flag, Range};

const ANY: Takes = Range(i32::MIN, i32::MAX);
const NOT_NEGATIVE: Takes = Range(0, i32::MAX);

/// Options that are numbers and are given back: level, name, the value where nothing is set, and what it takes.
const NUMBERS: &[(u32, u32, i32, Takes)] = &[
    (SOL_SOCKET, SO_REUSEADDR, 0, Flag),
    (SOL_SOCKET, SO_REUSEPORT, 0, Flag),
    (SOL_SOCKET, SO_KEEPALIVE, 0, Flag),
    (SOL_SOCKET, SO_BROADCAST, 0, Flag),
    (SOL_SOCKET, SO_DEBUG, 0, Flag),
    (SOL_SOCKET, SO_DONTROUTE, 0, Flag),
    (SOL_SOCKET, SO_OOBINLINE, 0, Flag),
    (SOL_SOCKET, SO_NO_CHECK, 0, Flag),
    (SOL_SOCKET, SO_PASSCRED, 0, Flag),
    (SOL_SOCKET, SO_TIMESTAMP, 0, Flag),
    (SOL_SOCKET, SO_TIMESTAMPNS, 0, Flag),
    (SOL_SOCKET, SO_RXQ_OVFL, 0, Flag),
    (SOL_SOCKET, SO_ZEROCOPY, 0, Range(0, 1)),
    (SOL_SOCKET, SO_PRIORITY, 0, ANY),
    (SOL_SOCKET, SO_MARK, 0, ANY),
    (SOL_SOCKET, SO_BUSY_POLL, 0, NOT_NEGATIVE),
    (SOL_TCP, TCP_NODELAY, 0, Flag),
    (SOL_TCP, TCP_CORK, 0, Flag),
    (SOL_TCP, TCP_QUICKACK, 1, Flag),
    (SOL_TCP, TCP_KEEPIDLE, 7200, Range(1, 32_767)),
    (SOL_TCP, TCP_KEEPINTVL, 75, Range(1, 32_767)),
    (SOL_TCP, TCP_KEEPCNT, 9, Range(1, 127)),
    (SOL_TCP, TCP_SYNCNT, 6, Range(1, 127)),
    (SOL_TCP, TCP_LINGER2, 60, ANY),
    (SOL_TCP, TCP_DEFER_ACCEPT, 0, ANY),
    (SOL_TCP, TCP_WINDOW_CLAMP, 0, NOT_NEGATIVE),
    (SOL_TCP, TCP_USER_TIMEOUT, 0, NOT_NEGATIVE),
    (SOL_TCP, TCP_FASTOPEN, 0, NOT_NEGATIVE),
    (SOL_TCP, TCP_FASTOPEN_CONNECT, 0, Range(0, 1)),
    (SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 0, Range(0, 1)),
    (SOL_TCP, TCP_NOTSENT_LOWAT, 0, ANY),
    (SOL_TCP, TCP_SAVE_SYN, 0, Range(0, 2)),
    (SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0, Range(0, 1)),
    (SOL_TCP, TCP_THIN_DUPACK, 0, Range(0, 1)),
    (SOL_TCP, TCP_INQ, 0, Range(0, 1)),
    (SOL_IP, IP_TOS, 0, ANY),
    (SOL_IP, IP_TTL, 64, Range(-1, 255)),
    (SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT as i32, Range(0, IP_PMTUDISC_OMIT as i32)),
    (SOL_IP, IP_RECVERR, 0, Flag),
    (SOL_IP, IP_PKTINFO, 0, Flag),
    (SOL_IP, IP_RECVTTL, 0, Flag),
    (SOL_IP, IP_RECVTOS, 0, Flag),
    (SOL_IP, IP_FREEBIND, 0, Flag),
    (SOL_IP, IP_TRANSPARENT, 0, Flag),
    (SOL_IP, IP_BIND_ADDRESS_NO_PORT, 0, Flag),
    (SOL_IP, IP_MULTICAST_TTL, 1, Range(-1, 255)),
    (SOL_IP, IP_MULTICAST_LOOP, 1, Flag),
    (SOL_IP, IP_MULTICAST_ALL, 1, Range(0, 1)),
];

/// When and how often a quiet connection is asked whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAlive {
    /// quiet for so long, in nanoseconds
    pub idle: u64,
    /// from question to question, in nanoseconds
    pub interval: u64,
    /// unanswered questions
    pub probes: u64,
}

/// What a program has set.
#[derive(Clone, Default)]
pub(super) struct Options {
    numbers: BTreeMap<(u32, u32), i32>,
    send_buffer: Option<i32>,
    receive_buffer: Option<i32>,
    send_timeout: Option<u64>,
    receive_timeout: Option<u64>,
    /// SO_LINGER: whether it is on, and seconds
    linger: (bool, i32),
    congestion_control: usize,
}

/// Whether a socket of that kind has options of that level.
///
/// # Errors
/// EOPNOTSUPP in the Unix domain, else ENOPROTOOPT.
pub(super) fn check_level(kind: Kind, level: u32) -> Result<(), Errno> {
    match level {
        SOL_SOCKET => Ok(()),
        _ if kind.domain != AF_INET => Err(errno::EOPNOTSUPP),
        SOL_IP => Ok(()),
        SOL_TCP if kind.style == SOCK_STREAM => Ok(()),
        _ => Err(errno::ENOPROTOOPT),
    }
}

/// The time that a timeval holds, in nanoseconds; None for no limit.
fn decode_timeout(value: &[u8]) -> Result<Option<u64>, Errno> {
    let [seconds, microseconds] = words(value)?;
    if !(0..MICROSECONDS).contains(&microseconds) {
        return Err(errno::EDOM);
    }
    let nanoseconds = |seconds: u64| seconds.saturating_mul(NANOSECONDS).saturating_add(microseconds as u64 * 1000);
    Ok(match u64::try_from(seconds) {
        // Linux takes it for no time at all.
        Err(_) => Some(0),
        Ok(0) if microseconds == 0 => None,
        Ok(seconds) => Some(nanoseconds(seconds)),
    })
}

fn encode_timeout(timeout: Option<u64>) -> Vec<u8> {
    let timeout = timeout.unwrap_or(0);
    let mut bytes = (timeout / NANOSECONDS).to_ne_bytes().to_vec();
    bytes.extend((timeout % NANOSECONDS / 1000).to_ne_bytes());
    bytes
}

fn words(value: &[u8]) -> Result<[i64; 2], Errno> {
    let (first, rest) = value.split_first_chunk::<8>().ok_or(errno::EINVAL)?;
    let second = rest.first_chunk::<8>().ok_or(errno::EINVAL)?;
    Ok([i64::from_ne_bytes(*first), i64::from_ne_bytes(*second)])
}

fn integer(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(errno::EINVAL)
}

/// The time that TCP_DEFER_ACCEPT stands for: Linux counts in repeated answers, after 1, 3, 7, ... seconds.
fn deferred_seconds(seconds: i32) -> i32 {
    const STEP_SECONDS_MAX: i32 = 120;
    const ANSWERS_MAX: u32 = 255;
    let (mut period, mut step) = (0, 1);
    for _ in 0..ANSWERS_MAX {
        if period >= seconds {
            break;
        }
        period += step;
        step = (step * 2).min(STEP_SECONDS_MAX);
    }
    period
}

impl Options {
    /// Sets an option to what the bytes say, of which there are as many as the program has given, up to 16.
    ///
    /// # Errors
    /// ENOPROTOOPT for one that is not known or cannot be set, EINVAL or EDOM for a value that it does not take.
    pub(super) fn set(&mut self, kind: Kind, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        check_level(kind, level)?;
        if (level, name) == (SOL_TCP, TCP_CONGESTION) {
            let asked = value.split(|byte| *byte == 0).next().unwrap_or_default();
            let known = CONGESTION_CONTROLS.iter().position(|known| *known == asked);
            self.congestion_control = known.ok_or(errno::ENOENT)?;
            return Ok(());
        }
        let number = match value {
            [byte, ..] if level == SOL_IP && value.len() < 4 => i32::from(*byte),
            _ => integer(value)?,
        };
        if level == SOL_SOCKET {
            match name {
                SO_SNDBUF => self.send_buffer = Some((number.min(ASKED_BYTES_MAX) * 2).max(SEND_BYTES_MIN)),
                SO_RCVBUF => self.receive_buffer = Some((number.min(ASKED_BYTES_MAX) * 2).max(RECEIVE_BYTES_MIN)),
                SO_SNDBUFFORCE => self.send_buffer = Some((number.min(FORCED_BYTES_MAX) * 2).max(SEND_BYTES_MIN)),
                SO_RCVBUFFORCE => self.receive_buffer = Some((number.min(FORCED_BYTES_MAX) * 2).max(RECEIVE_BYTES_MIN)),
                SO_SNDTIMEO => self.send_timeout = decode_timeout(value)?,
                SO_RCVTIMEO => self.receive_timeout = decode_timeout(value)?,
                SO_LINGER => {
                    let seconds = value.get(4..).map(integer).ok_or(errno::EINVAL)??;
                    self.linger = if number != 0 { (true, seconds) } else { (false, self.linger.1) };
                }
                SO_RCVLOWAT => {
                    let bytes = if number < 0 { i32::MAX } else { number.max(1) };
                    self.numbers.insert((level, name), bytes);
                }
                _ => return self.set_number(level, name, number),
            }
            return Ok(());
        }
        match (level, name) {
            (SOL_TCP, TCP_MAXSEG) if number != 0 && !(88..=32_767).contains(&number) => return Err(errno::EINVAL),
            (SOL_TCP, TCP_MAXSEG) => self.numbers.insert((level, name), number),
            (SOL_TCP, TCP_DEFER_ACCEPT) => self.numbers.insert((level, name), deferred_seconds(number)),
            (SOL_IP, IP_TOS) => {
                // The lowest bits belong to TCP itself (RFC 3168).
                let mask = if kind.style == SOCK_STREAM { 0xfc } else { 0xff };
                self.numbers.insert((level, name), number & mask)
            }
            (SOL_IP, IP_TTL) if number == 0 => return Err(errno::EINVAL),
            (SOL_IP, IP_TTL | IP_MULTICAST_TTL) if number == -1 => self.numbers.remove(&(level, name)),
            _ => return self.set_number(level, name, number),
        };
        Ok(())
    }

    fn set_number(&mut self, level: u32, name: u32, number: i32) -> Result<(), Errno> {
        let known = NUMBERS.iter().find(|known| (known.0, known.1) == (level, name));
        let number = match known.ok_or(errno::ENOPROTOOPT)?.3 {
            Flag => i32::from(number != 0),
            Range(from, to) if (from..=to).contains(&number) => number,
            Range(..) => return Err(errno::EINVAL),
        };
        self.numbers.insert((level, name), number);
        Ok(())
    }

    /// The value of an option, as the program's bytes.
    ///
    /// # Errors
    /// ENOPROTOOPT for one that is not known.
    pub(super) fn get(&self, kind: Kind, level: u32, name: u32) -> Result<Vec<u8>, Errno> {
        check_level(kind, level)?;
        let number = match (level, name) {
            (SOL_SOCKET, SO_SNDBUF) => self.send_bytes(kind),
            (SOL_SOCKET, SO_RCVBUF) => self.receive_bytes(kind),
            (SOL_SOCKET, SO_SNDTIMEO) => return Ok(encode_timeout(self.send_timeout)),
            (SOL_SOCKET, SO_RCVTIMEO) => return Ok(encode_timeout(self.receive_timeout)),
            (SOL_SOCKET, SO_LINGER) => {
                let mut bytes = i32::from(self.linger.0).to_ne_bytes().to_vec();
                bytes.extend(self.linger.1.to_ne_bytes());
                return Ok(bytes);
            }
            (SOL_SOCKET, SO_SNDLOWAT) => 1,
            (SOL_SOCKET, SO_RCVLOWAT) => self.numbers.get(&(level, name)).copied().unwrap_or(1),
            (SOL_TCP, TCP_MAXSEG) => {
                /// TCP_MSS_DEFAULT, RFC 1122.
                const SEGMENT_BYTES: i32 = 536;
                self.numbers.get(&(level, name)).copied().unwrap_or(SEGMENT_BYTES)
            }
            (SOL_TCP, TCP_CONGESTION) => {
                let mut name = CONGESTION_CONTROLS[self.congestion_control].to_vec();
                name.resize(CONGESTION_CONTROL_BYTES, 0);
                return Ok(name);
            }
            _ => {
                let known = NUMBERS.iter().find(|known| (known.0, known.1) == (level, name));
                let default = known.ok_or(errno::ENOPROTOOPT)?.2;
                self.numbers.get(&(level, name)).copied().unwrap_or(default)
            }
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// A number, 0 where it is none of those that are kept.
    fn number(&self, level: u32, name: u32) -> i32 {
        let default = NUMBERS.iter().find(|known| (known.0, known.1) == (level, name)).map_or(0, |known| known.2);
        self.numbers.get(&(level, name)).copied().unwrap_or(default)
    }

    /// Whether a flag of SOL_SOCKET is set.
    pub(super) fn has(&self, name: u32) -> bool {
        self.number(SOL_SOCKET, name) != 0
    }

    /// Whether short segments wait for those before them to be acknowledged (Nagle's algorithm).
    pub(super) fn holds_short_segments(&self) -> bool {
        self.number(SOL_TCP, TCP_NODELAY) == 0
    }

    /// SO_SNDBUF as Linux says it.
    pub(super) fn send_bytes(&self, kind: Kind) -> i32 {
        self.send_buffer.unwrap_or(if kind.is_tcp() { TCP_SEND_BYTES } else { OTHER_BYTES })
    }

    /// SO_RCVBUF as Linux says it.
    pub(super) fn receive_bytes(&self, kind: Kind) -> i32 {
        self.receive_buffer.unwrap_or(if kind.is_tcp() { TCP_RECEIVE_BYTES } else { OTHER_BYTES })
    }

    /// What the program itself asked for, in bytes: to send and to receive.
    pub(super) fn asked_bytes(&self) -> (Option<usize>, Option<usize>) {
        (self.send_buffer.map(|bytes| bytes as usize), self.receive_buffer.map(|bytes| bytes as usize))
    }

    /// How long a call waits at most to send, in nanoseconds.
    pub(super) fn send_timeout(&self) -> Option<u64> {
        self.send_timeout
    }

    /// How long a call waits at most to receive, in nanoseconds.
    pub(super) fn receive_timeout(&self) -> Option<u64> {
        self.receive_timeout
    }

    /// Whether closing drops what was not sent and resets the connection.
    pub(super) fn closes_abruptly(&self) -> bool {
        self.linger == (true, 0)
    }

    /// SO_KEEPALIVE with its times.
    pub(super) fn keep_alive(&self) -> Option<KeepAlive> {
        let seconds = |name| self.number(SOL_TCP, name).max(1) as u64 * NANOSECONDS;
        let probes = self.number(SOL_TCP, TCP_KEEPCNT).max(1) as u64;
        let keep_alive = KeepAlive { idle: seconds(TCP_KEEPIDLE), interval: seconds(TCP_KEEPINTVL), probes };
        self.has(SO_KEEPALIVE).then_some(keep_alive)
    }

    /// TCP_USER_TIMEOUT in nanoseconds.
    pub(super) fn user_timeout(&self) -> Option<u64> {
        match self.number(SOL_TCP, TCP_USER_TIMEOUT) {
            0 => None,
            milliseconds => Some(milliseconds.unsigned_abs().into()).map(|time: u64| time * 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::net::{AF_UNIX, SO_TYPE, SOCK_DGRAM};

    use super::*;

    const TCP: Kind = Kind { domain: AF_INET, style: SOCK_STREAM };
    const UDP: Kind = Kind { domain: AF_INET, style: SOCK_DGRAM };
    const UNIX: Kind = Kind { domain: AF_UNIX, style: SOCK_STREAM };

    fn set(options: &mut Options, kind: Kind, level: u32, name: u32, value: i32) -> Result<(), Errno> {
        options.set(kind, level, name, &value.to_ne_bytes())
    }

    fn get(options: &Options, kind: Kind, level: u32, name: u32) -> Result<i32, Errno> {
        options.get(kind, level, name).and_then(|bytes| integer(&bytes))
    }

    #[test]
    fn numbers_are_given_back() {
        let mut options = Options::default();
        assert_eq!(get(&options, TCP, SOL_TCP, TCP_KEEPIDLE), Ok(7200));
        set(&mut options, TCP, SOL_TCP, TCP_KEEPIDLE, 300).unwrap();
        assert_eq!(get(&options, TCP, SOL_TCP, TCP_KEEPIDLE), Ok(300));
        assert_eq!(set(&mut options, TCP, SOL_TCP, TCP_KEEPIDLE, 0), Err(errno::EINVAL));
        assert_eq!(options.keep_alive(), None);
        set(&mut options, TCP, SOL_SOCKET, SO_KEEPALIVE, 7).unwrap();
        assert_eq!(get(&options, TCP, SOL_SOCKET, SO_KEEPALIVE), Ok(1));
        let keep_alive = KeepAlive { idle: 300 * NANOSECONDS, interval: 75 * NANOSECONDS, probes: 9 };
        assert_eq!(options.keep_alive(), Some(keep_alive));
    }

    #[test]
    fn buffers_are_doubled_and_bounded() {
        let mut options = Options::default();
        assert_eq!(get(&options, TCP, SOL_SOCKET, SO_SNDBUF), Ok(16_384));
        assert_eq!(get(&options, UNIX, SOL_SOCKET, SO_SNDBUF), Ok(212_992));
        for (asked, told) in [(10_000, 20_000), (0, 4608), (i32::MAX, 425_984)] {
            set(&mut options, TCP, SOL_SOCKET, SO_SNDBUF, asked).unwrap();
            assert_eq!(get(&options, TCP, SOL_SOCKET, SO_SNDBUF), Ok(told));
        }
    }

    #[test]
    fn levels_and_names_that_are_not_known_are_refused() {
        let mut options = Options::default();
        assert_eq!(set(&mut options, UDP, SOL_TCP, TCP_NODELAY, 1), Err(errno::ENOPROTOOPT));
        assert_eq!(set(&mut options, UNIX, SOL_TCP, TCP_NODELAY, 1), Err(errno::EOPNOTSUPP));
        assert_eq!(set(&mut options, TCP, SOL_SOCKET, SO_TYPE, 1), Err(errno::ENOPROTOOPT));
        assert_eq!(set(&mut options, TCP, SOL_TCP, 9999, 1), Err(errno::ENOPROTOOPT));
        assert_eq!(options.set(TCP, SOL_TCP, TCP_NODELAY, &[1]), Err(errno::EINVAL));
        assert_eq!(options.set(TCP, SOL_IP, IP_TTL, &[12]), Ok(()));
        assert_eq!(get(&options, TCP, SOL_IP, IP_TTL), Ok(12));
    }

    #[test]
    fn times_are_checked() {
        let time = |seconds: i64, microseconds: i64| [seconds.to_ne_bytes(), microseconds.to_ne_bytes()].concat();
        let mut options = Options::default();
        let mut set = |value: &[u8]| {
            let result = options.set(TCP, SOL_SOCKET, SO_RCVTIMEO, value);
            result.map(|()| (options.receive_timeout(), options.get(TCP, SOL_SOCKET, SO_RCVTIMEO).unwrap()))
        };
        assert_eq!(set(&time(1, 500_000)), Ok((Some(1_500_000_000), time(1, 500_000))));
        assert_eq!(set(&time(0, 0)), Ok((None, time(0, 0))));
        assert_eq!(set(&time(0, MICROSECONDS)), Err(errno::EDOM));
        assert_eq!(set(&[0; 8]), Err(errno::EINVAL));
        assert_eq!(set(&time(-1, 0)).map(|set| set.0), Ok(Some(0)));
    }

    #[test]
    fn linger_remembers_its_seconds() {
        let linger = |is_on: i32, seconds: i32| [is_on.to_ne_bytes(), seconds.to_ne_bytes()].concat();
        let mut options = Options::default();
        options.set(TCP, SOL_SOCKET, SO_LINGER, &linger(5, 0)).unwrap();
        assert!(options.closes_abruptly());
        options.set(TCP, SOL_SOCKET, SO_LINGER, &linger(1, 30)).unwrap();
        options.set(TCP, SOL_SOCKET, SO_LINGER, &linger(0, 0)).unwrap();
        assert_eq!(options.get(TCP, SOL_SOCKET, SO_LINGER), Ok(linger(0, 30)));
        assert!(!options.closes_abruptly());
    }

    #[test]
    fn a_deferred_accept_is_counted_in_answers() {
        let seconds: Vec<i32> = [-1, 0, 1, 2, 5, 30, 200].into_iter().map(deferred_seconds).collect();
        assert_eq!(seconds, [0, 0, 1, 3, 7, 31, 247]);
    }
}
