//! What one node is told at its start; `ftvmm/configuration.py` reads it from `node.toml` and has checked it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

#[cfg(feature = "lab")]
use super::failpoints::Failpoint;
#[cfg(feature = "lab")]
use super::mutants::Mutants;
use crate::machine::Feature;
use crate::protocol::TimingConfig;

/// Which build this is: the one that is shipped, or the lab's, which can be broken on purpose.
pub const BUILD: &str = if cfg!(feature = "lab") { "lab" } else { "shipped" };

/// Everything of one node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// the virtual machine, the same on both nodes
    pub vm: VmConfig,
    /// this node
    pub node: IdentityConfig,
    /// the logging channel
    pub logging: LoggingConfig,
    /// the heartbeat sockets, one a network
    pub heartbeat: Vec<HeartbeatConfig>,
    /// bounds of the failure detector and the lease, in milliseconds
    pub timing: TimingConfig,
    /// what becomes of uncertain outputs
    pub output: OutputConfig,
    /// where what the guest is told live is recorded; absent: nowhere
    pub record: Option<RecordConfig>,
    /// 64 hexadecimal digits, shared by both nodes
    pub key: String,
    /// what the lab's build alone takes
    #[cfg(feature = "lab")]
    #[serde(default)]
    pub test: TestConfig,
}

impl NodeConfig {
    /// How this VMM is broken on purpose: in the shipped build not at all.
    pub fn mutants(&self) -> Vec<String> {
        #[cfg(feature = "lab")]
        return self.test.mutants.clone().into();
        #[cfg(not(feature = "lab"))]
        Vec::new()
    }
}

/// What a node of the lab's build is told beside.
#[cfg(feature = "lab")]
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// how this VMM is broken on purpose
    pub mutants: Mutants,
    /// exact moments at which something happens to it
    pub failpoints: Vec<Failpoint>,
}

/// The virtual machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// 32 hexadecimal digits
    pub uuid: String,
    /// the Solo5 image
    pub image: PathBuf,
    /// size of the guest's memory, in MiB
    pub memory_mib: u64,
    /// what the guest is shown of the processor beyond x86-64-v2; the same on both hosts
    pub features: Vec<Feature>,
    /// whether the hosts may differ in what the image's results depend on
    pub mixed_hosts: bool,
    /// the guest's command line
    pub arguments: Vec<String>,
    /// network devices by manifest name
    pub network: Vec<NetworkConfig>,
    /// block devices by manifest name
    pub block: Vec<BlockConfig>,
}

/// One network device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// the manifest's name
    pub name: String,
    /// an existing TAP
    pub tap: String,
    /// six bytes
    pub mac: [u8; 6],
    /// the guest's address behind this device, which a go-live announces
    pub address: Option<Ipv4Addr>,
}

/// One block device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// the manifest's name
    pub name: String,
    /// the file that both hosts reach
    pub path: PathBuf,
    /// size of its sectors, the same on both hosts
    pub sector_bytes: u16,
}

/// Who this node is, and where it leaves its trace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// the node's name
    pub name: String,
    /// the peer's name, for people
    pub peer: String,
    /// trace, console and control socket
    pub directory: PathBuf,
    /// what `trace.jsonl` and the one before it take up at most, in MiB
    pub trace_mib_max: u64,
    /// the same for `console.log`
    pub console_mib_max: u64,
}

/// The logging channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggingConfig {
    /// where a SPARE listens
    pub listen: SocketAddr,
    /// where the primary dials
    pub peer: SocketAddr,
    /// the log in memory, in MiB: a primary whose log is full stalls, a backup whose log is full reads no more
    pub buffer_mib: u64,
    /// at most so many log entries in one message; absent: as many as fit
    pub entries_per_message: Option<usize>,
}

/// One pair of heartbeat sockets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// the network's name, such as `logging` or `management`
    pub network: String,
    /// this node's socket
    pub listen: SocketAddr,
    /// the peer's socket
    pub peer: SocketAddr,
}

/// What becomes of uncertain outputs at a go-live.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OutputPolicy {
    /// all are emitted again, byte-identical
    Resend,
    /// frames are dropped, block writes and console bytes emitted again (R17)
    Drop,
}

/// The record of what the guest is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// where the log file is made
    pub directory: PathBuf,
    /// the recording ends before the file grows beyond this, in MiB
    pub size_mib_max: u64,
}

/// The output policy's table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// `resend` or `drop`
    pub policy: OutputPolicy,
}
