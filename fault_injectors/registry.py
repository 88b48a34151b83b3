"""All faults there are, by name: a flat list that reports, the documentation and exploratory runs read."""

from __future__ import annotations

from collections.abc import Mapping

from fault_injectors.arbiter_record import RolledBackRecords, UnreadableRecord
from fault_injectors.base import LabFault
from fault_injectors.block_layer import FailingDevice, FlakyDevice
from fault_injectors.cable import PulledCable
from fault_injectors.clock import ClockStep
from fault_injectors.disk import BitFlip, DiskError, ReadError, SlowDisk, TornWrite, WriteError
from fault_injectors.etcd import ChangedEtcdKey, CutEtcdLeader, KillEtcdMember
from fault_injectors.file_system import FullFileSystem
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.host import BriefFreeze, Freeze, PowerOff
from fault_injectors.kernel import KernelHang, KernelPanic, Reboot
from fault_injectors.logging_network import LogCorruption, LogDelay, LoggingCut, LogReset, LogThrottle
from fault_injectors.memory import DamagedMemory, MemoryPressure
from fault_injectors.networks import ArbiterUnreachable, FlappingCut, HostPairCut, NetworkCut
from fault_injectors.operator import OperatorCommand
from fault_injectors.sleep import Sleep
from fault_injectors.storage_server import StoppedStorageServer
from fault_injectors.stray_heartbeats import ForgedHeartbeats, ReplayedHeartbeats
from fault_injectors.traffic import PacketCorruption, PacketDelay, PacketLoss, PacketReordering
from fault_injectors.vmm import KillVmm

FAULTS: Mapping[str, type[LabFault]] = {
    fault.name: fault
    for fault in (
        PowerOff,
        Freeze,
        BriefFreeze,
        Sleep,
        KernelPanic,
        KernelHang,
        Reboot,
        MemoryPressure,
        DamagedMemory,
        ClockStep,
        FullFileSystem,
        KillVmm,
        OperatorCommand,
        LoggingCut,
        LogDelay,
        LogThrottle,
        LogCorruption,
        LogReset,
        HeartbeatLoss,
        NetworkCut,
        HostPairCut,
        PulledCable,
        PacketDelay,
        PacketLoss,
        PacketReordering,
        PacketCorruption,
        FlappingCut,
        ForgedHeartbeats,
        ReplayedHeartbeats,
        ArbiterUnreachable,
        UnreadableRecord,
        RolledBackRecords,
        KillEtcdMember,
        CutEtcdLeader,
        ChangedEtcdKey,
        BitFlip,
        DiskError,
        ReadError,
        WriteError,
        TornWrite,
        SlowDisk,
        StoppedStorageServer,
        FailingDevice,
        FlakyDevice,
    )
}
