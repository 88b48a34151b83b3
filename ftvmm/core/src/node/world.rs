//! Attaching the VM to this host: its NICs and disks, by the manifest of its image.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::devices::{BlockFile, DeviceError, Tap};
use crate::image::{DeviceKind, Image, ManifestEntry};
use crate::machine::{DeviceConfig, MachineConfig};

use super::announce;
use super::config::VmConfig;
use super::devices::Devices;

/// What stands behind each device, and whether it is attached.
#[derive(Debug)]
pub struct World {
    vm: VmConfig,
    declared: Vec<ManifestEntry>,
    attached: Arc<Mutex<Option<Arc<Devices>>>>,
}

impl World {
    /// The world of a VM; that its devices are those of the manifest is checked by `Machine::new`.
    pub fn new(vm: &VmConfig, image: &Image) -> World {
        World { vm: vm.clone(), declared: image.manifest.entries.clone(), attached: Arc::default() }
    }

    /// Where everyone looks for the attached devices.
    pub fn attached(&self) -> Arc<Mutex<Option<Arc<Devices>>>> {
        self.attached.clone()
    }

    /// What the guest sees of its devices: equal on both hosts, or the pair does not form.
    ///
    /// # Errors
    /// [`DeviceError`] when a disk's size or an interface's MTU cannot be read.
    pub fn machine_config(&self) -> Result<MachineConfig, DeviceError> {
        let mut config = MachineConfig::new(self.vm.memory_mib << 20).with_features(&self.vm.features);
        config.command_line = self.vm.arguments.join(" ");
        for device in &self.vm.network {
            let interface = DeviceConfig::Network { mac: device.mac, mtu_bytes: Tap::mtu_of(&device.tap)? };
            config.devices.insert(device.name.clone(), interface);
        }
        for device in &self.vm.block {
            let file = BlockFile::open(&device.path)?;
            config = config.with_block(&device.name, file.capacity_bytes());
        }
        Ok(config)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{beside_a_tap, ip};
    use crate::node::config::NetworkConfig;

    #[test]
    fn the_guest_is_told_the_mtu_of_its_tap() {
        beside_a_tap(|| {
            ip("link set tap0 mtu 1400");
            let mac = [2, 0, 0, 0, 0, 7];
            let vm = VmConfig {
                uuid: String::new(),
                image: "image.hvt".into(),
                memory_mib: 2,
                features: Vec::new(),
                arguments: Vec::new(),
                network: vec![NetworkConfig { name: "service".into(), tap: "tap0".into(), mac }],
                block: Vec::new(),
            };
            let world = World { vm, declared: Vec::new(), attached: Arc::default() };
            let device = DeviceConfig::Network { mac, mtu_bytes: 1400 };
            assert_eq!(world.machine_config().unwrap().devices.get("service"), Some(&device));
        });
    }
}
