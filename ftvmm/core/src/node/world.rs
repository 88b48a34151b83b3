//! Attaching the VM to this host: its NICs and disks, by the manifest of its image.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::devices::{BlockFile, DeviceError, Tap};
use crate::image::{DeviceKind, Image, ManifestEntry};
use crate::machine::{DeviceConfig, MachineConfig};
use crate::remark::remark;

use super::announce;
use super::config::{NetworkConfig, VmConfig};
use super::devices::Devices;

/// What stands behind each device, and whether it is attached.
#[derive(Debug)]
pub struct World {
    vm: VmConfig,
    declared: Vec<ManifestEntry>,
    machine: MachineConfig,
    attached: Arc<Mutex<Option<Arc<Devices>>>>,
}

impl World {
    /// The world of a VM; that its devices are those of the manifest is checked by `Machine::new`.
    ///
    /// # Errors
    /// [`DeviceError`] when a disk's size or an interface's MTU cannot be read.
    pub fn new(vm: &VmConfig, image: &Image) -> Result<World, DeviceError> {
        let declared = image.manifest.entries.clone();
        Ok(World { vm: vm.clone(), declared, machine: machine_config(vm)?, attached: Arc::default() })
    }

    /// Where everyone looks for the attached devices.
    pub fn attached(&self) -> Arc<Mutex<Option<Arc<Devices>>>> {
        self.attached.clone()
    }

    /// What the guest sees of its devices: equal on both hosts, or the pair does not form.
    pub fn machine_config(&self) -> &MachineConfig {
        &self.machine
    }

    /// Attaches every device.
    ///
    /// # Errors
    /// [`DeviceError`] naming the first one that cannot be had.
    pub fn attach(&self) -> Result<(), DeviceError> {
        let mut devices = Devices::default();
        for ManifestEntry { index, name, kind } in &self.declared {
            match kind {
                DeviceKind::Network => {
                    for device in self.vm.network.iter().filter(|device| device.name == *name) {
                        let tap = Tap::open(&device.tap)?;
                        if let Some(lowered) = self.lowered_mtu(device, tap.mtu_bytes()) {
                            remark(lowered);
                        }
                        devices = devices.with_tap(*index, tap);
                    }
                }
                DeviceKind::Block => {
                    for device in self.vm.block.iter().filter(|device| device.name == *name) {
                        let file = BlockFile::open(&device.path)?;
                        devices = devices.with_block(*index, file);
                    }
                }
            }
        }
        *self.attached.lock() = Some(Arc::new(devices));
        Ok(())
    }

    /// What to say where an interface takes less now than the guest was told.
    fn lowered_mtu(&self, device: &NetworkConfig, now: u16) -> Option<String> {
        let Some(DeviceConfig::Network { mtu_bytes: told, .. }) = self.machine.devices.get(&device.name) else {
            return None;
        };
        let tap = &device.tap;
        (now < *told).then(|| {
            format!(
                "ftvmm node: the MTU of TAP interface {tap:?} is {now} now and was {told} when the guest was told of it: \
                 its longer frames may be lost"
            )
        })
    }

    /// Lets go of the NIC and the disk.
    pub fn detach(&self) {
        *self.attached.lock() = None;
    }

    /// Tells the network where the VM is now, if it is attached here.
    pub fn announce(&self) {
        let Some(devices) = self.attached.lock().clone() else { return };
        let address = announce::address_in(&self.vm.arguments);
        for device in &self.vm.network {
            for frame in announce::frames(device.mac, address) {
                devices.send_frame_everywhere(&frame);
            }
        }
    }
}

fn machine_config(vm: &VmConfig) -> Result<MachineConfig, DeviceError> {
    let mut config = MachineConfig::new(vm.memory_mib << 20).with_features(&vm.features);
    config.command_line = vm.arguments.join(" ");
    for device in &vm.network {
        let interface = DeviceConfig::Network { mac: device.mac, mtu_bytes: Tap::mtu_of(&device.tap)? };
        config.devices.insert(device.name.clone(), interface);
    }
    for device in &vm.block {
        let file = BlockFile::open(&device.path)?;
        config = config.with_block(&device.name, file.capacity_bytes());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{beside_a_tap, ip};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    /// Beside a TAP `tap0` whose MTU is 1400.
    fn world() -> World {
        ip("link set tap0 mtu 1400");
        let vm = VmConfig {
            uuid: String::new(),
            image: "image.hvt".into(),
            memory_mib: 2,
            features: Vec::new(),
            arguments: Vec::new(),
            network: vec![NetworkConfig { name: "service".into(), tap: "tap0".into(), mac: MAC }],
            block: Vec::new(),
        };
        World { machine: machine_config(&vm).unwrap(), vm, declared: Vec::new(), attached: Arc::default() }
    }

    #[test]
    fn the_guest_is_told_the_mtu_of_its_tap() {
        beside_a_tap(|| {
            let device = DeviceConfig::Network { mac: MAC, mtu_bytes: 1400 };
            assert_eq!(world().machine_config().devices.get("service"), Some(&device));
        });
    }

    #[test]
    fn people_are_told_that_the_mtu_is_lower_now() {
        beside_a_tap(|| {
            let world = world();
            let said_of = |mtu: u16| {
                ip(&format!("link set tap0 mtu {mtu}"));
                world.lowered_mtu(&world.vm.network[0], Tap::open("tap0").unwrap().mtu_bytes())
            };
            assert_eq!(said_of(1400), None);
            assert_eq!(said_of(9000), None);
            let said = said_of(1300).unwrap();
            assert!(said.contains("TAP interface \"tap0\" is 1300 now and was 1400"), "{said}");
        });
    }
}
