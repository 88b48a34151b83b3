//! Attaching the VM to this host: its NICs and disks, by the manifest of its image.

use std::sync::Arc;

use crate::devices::{BlockFile, DeviceError, Devices, Sharing, Tap};
use crate::image::{DeviceKind, Image, ManifestEntry};
use crate::lock::Mutex;
use crate::machine::{DeviceConfig, MachineConfig};
use crate::protocol::Unusable;
use crate::remark::remark;

use super::announce;
use super::config::{NetworkConfig, VmConfig};

/// What stands behind each device, and whether it is attached.
#[derive(Debug)]
pub struct World {
    vm: VmConfig,
    declared: Vec<ManifestEntry>,
    machine: MachineConfig,
    /// Open and found usable by the last check, for a VM that may come here (R24).
    standby: Mutex<Devices>,
    attached: Arc<Mutex<Option<Arc<Devices>>>>,
}

impl World {
    /// The world of a VM; that its devices are those of the manifest is checked by `Machine::new`.
    ///
    /// # Errors
    /// [`DeviceError`] when a disk's size or an interface's MTU cannot be read.
    pub fn new(vm: &VmConfig, image: &Image) -> Result<World, DeviceError> {
        let declared = image.manifest.entries.clone();
        Ok(World {
            vm: vm.clone(),
            declared,
            machine: machine_config(vm)?,
            standby: Mutex::default(),
            attached: Arc::default(),
        })
    }

    /// Where everyone looks for the attached devices.
    pub fn attached(&self) -> Arc<Mutex<Option<Arc<Devices>>>> {
        self.attached.clone()
    }

    /// What the guest sees of its devices: equal on both hosts, or the pair does not form.
    pub fn machine_config(&self) -> &MachineConfig {
        &self.machine
    }

    /// What stands behind the network device of this name.
    fn network_device(&self, name: &str) -> Option<&NetworkConfig> {
        self.vm.network.iter().find(|device| device.name == name)
    }

    /// Opens what is not open yet, and looks at all of it: what can be used stays open for `attach` (R24). May take as long as a dead
    /// share likes.
    pub fn check(&self) -> Unusable {
        // No lock is held meanwhile: `detach` waits for nobody.
        let before = self.standby.lock().clone();
        let (mut usable, mut found) = (Devices::default(), Unusable::default());
        for ManifestEntry { index, name, kind } in &self.declared {
            let (failed, place) = match kind {
                DeviceKind::Network => (self.check_tap(*index, name, &before, &mut usable), &mut found.network),
                DeviceKind::Block => (self.check_block(*index, name, &mut usable), &mut found.disk),
            };
            if let Err(error) = failed {
                place.get_or_insert(error.to_string());
            }
        }
        *self.standby.lock() = usable;
        found
    }

    fn check_tap(&self, index: u8, name: &str, before: &Devices, usable: &mut Devices) -> Result<(), DeviceError> {
        let Some(device) = self.network_device(name) else { return Ok(()) };
        // An open one is kept: opening it anew takes its carrier away for a moment.
        let tap = match before.tap(index) {
            Some(tap) => tap.clone(),
            None => Arc::new(Tap::open(&device.tap)?),
        };
        tap.check()?;
        usable.add_tap(index, tap);
        Ok(())
    }

    fn check_block(&self, index: u8, name: &str, usable: &mut Devices) -> Result<(), DeviceError> {
        for device in self.vm.block.iter().filter(|device| device.name == name) {
            // Anew each time, by its path: what was open before may be what was mounted there before.
            let block = BlockFile::open(&device.path, Sharing::Shared, device.sector_bytes)?;
            block.check()?;
            usable.add_block(index, Arc::new(block));
        }
        Ok(())
    }

    /// Gives the VM the devices that the last check opened; nothing here takes time.
    ///
    /// # Errors
    /// [`DeviceError`] naming one that is not open.
    pub fn attach(&self) -> Result<(), DeviceError> {
        let devices = std::mem::take(&mut *self.standby.lock());
        for ManifestEntry { index, name, .. } in &self.declared {
            if !devices.has(*index) {
                return Err(DeviceError::Missing { device: *index });
            }
            let attached = self.network_device(name).zip(devices.tap(*index));
            if let Some(lowered) = attached.and_then(|(device, tap)| self.lowered_mtu(device, tap.mtu_bytes())) {
                remark(lowered);
            }
        }
        devices.take_over();
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
        *self.standby.lock() = Devices::default();
        *self.attached.lock() = None;
    }

    /// Tells each network where the VM's device on it is now, if the VM is attached here.
    pub fn announce(&self) {
        let Some(devices) = self.attached.lock().clone() else { return };
        for ManifestEntry { index, name, .. } in &self.declared {
            let Some(device) = self.network_device(name) else { continue };
            for frame in announce::frames(device.mac, announce::address_of(device, &self.vm)) {
                // An interface that takes none now may take the next announcement.
                let _ = devices.send_frame(*index, &frame);
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
        let file = BlockFile::open(&device.path, Sharing::Shared, device.sector_bytes)?;
        let disk = DeviceConfig::Block { capacity_bytes: file.capacity_bytes(), sector_bytes: device.sector_bytes };
        config.devices.insert(device.name.clone(), disk);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{beside_a_tap, ip};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
    const ARP: [u8; 2] = [8, 6];
    const RARP: [u8; 2] = [0x80, 0x35];

    fn device(name: &str, tap: &str, mac: [u8; 6], address: Option<&str>) -> NetworkConfig {
        let address = address.map(|address| address.parse().unwrap());
        NetworkConfig { name: name.into(), tap: tap.into(), mac, address }
    }

    fn vm_with(network: Vec<NetworkConfig>) -> VmConfig {
        VmConfig {
            uuid: String::new(),
            image: "image.hvt".into(),
            memory_mib: 2,
            features: Vec::new(),
            mixed_hosts: false,
            arguments: vec!["--ipv4=10.0.0.2/24".into()],
            network,
            block: Vec::new(),
        }
    }

    fn world_of(vm: VmConfig) -> World {
        let entry = |(device, index): (&NetworkConfig, u8)| ManifestEntry {
            index,
            name: device.name.clone(),
            kind: DeviceKind::Network,
        };
        World {
            machine: machine_config(&vm).unwrap(),
            declared: vm.network.iter().zip(1..).map(entry).collect(),
            vm,
            standby: Mutex::default(),
            attached: Arc::default(),
        }
    }

    /// Beside a TAP `tap0` whose MTU is 1400.
    fn world() -> World {
        ip("link set tap0 mtu 1400");
        world_of(vm_with(vec![device("service", "tap0", MAC, None)]))
    }

    /// Puts an interface on a bridge, and another TAP beside it, which hears what is sent there.
    fn beside_on_a_bridge(tap: &str) -> Tap {
        let (bridge, beside) = (format!("{tap}-bridge"), format!("{tap}-beside"));
        ip(&format!("link add {bridge} type bridge forward_delay 0 mcast_snooping 0"));
        ip(&format!("tuntap add {beside} mode tap"));
        for name in [tap, &beside] {
            ip(&format!("link set {name} master {bridge} up"));
        }
        ip(&format!("link set {bridge} up"));
        Tap::open(&beside).unwrap()
    }

    /// The announcements that came to an interface: source and type.
    fn announced_on(tap: &Tap) -> Vec<([u8; 6], [u8; 2])> {
        std::iter::from_fn(|| tap.read(1514).unwrap())
            .map(|frame| (frame[6..12].try_into().unwrap(), frame[12..14].try_into().unwrap()))
            .filter(|(_, kind)| [ARP, RARP].contains(kind))
            .collect()
    }

    #[test]
    fn each_network_device_is_announced_on_its_own_network_alone() {
        beside_a_tap(|| {
            ip("tuntap add tap1 mode tap");
            let networks = ["tap0", "tap1"].map(beside_on_a_bridge);
            let service = device("service", "tap0", MAC, None);
            let storage = device("storage", "tap1", OTHER_MAC, Some("10.0.1.2"));
            let world = world_of(vm_with(vec![service, storage]));
            assert_eq!(world.check().network, None);
            world.attach().unwrap();
            world.announce();
            assert_eq!(announced_on(&networks[0]), [(MAC, RARP)], "which device has 10.0.0.2 only the guest knows");
            assert_eq!(announced_on(&networks[1]), [(OTHER_MAC, RARP), (OTHER_MAC, ARP), (OTHER_MAC, ARP)]);
        });
    }

    #[test]
    fn the_arguments_tell_the_address_of_an_only_network_device() {
        let address_of_first = |vm: &VmConfig| announce::address_of(&vm.network[0], vm).map(|one| one.to_string());
        let service = |address| device("service", "tap0", MAC, address);
        let storage = device("storage", "tap1", OTHER_MAC, None);
        assert_eq!(address_of_first(&vm_with(vec![service(None)])).unwrap(), "10.0.0.2");
        assert_eq!(address_of_first(&vm_with(vec![service(Some("10.0.9.9"))])).unwrap(), "10.0.9.9");
        assert_eq!(address_of_first(&vm_with(vec![service(Some("10.0.9.9")), storage.clone()])).unwrap(), "10.0.9.9");
        assert_eq!(address_of_first(&vm_with(vec![service(None), storage])), None);
    }

    #[test]
    fn the_guest_is_told_the_mtu_of_its_tap() {
        beside_a_tap(|| {
            let device = DeviceConfig::Network { mac: MAC, mtu_bytes: 1400 };
            assert_eq!(world().machine_config().devices.get("service"), Some(&device));
        });
    }

    #[test]
    fn only_an_interface_that_is_up_and_nobody_elses_is_kept_open_for_the_vm() {
        beside_a_tap(|| {
            let world = world();
            let found = || world.check().network.unwrap_or_default();
            assert!(found().contains("Network is down"), "{}", found());
            assert!(world.attach().is_err());
            ip("link set tap0 up");
            let other = Tap::open("tap0").unwrap();
            assert!(found().contains("cannot be opened"), "{}", found());
            drop(other);
            assert_eq!(found(), "");
            assert!(Tap::open("tap0").is_err(), "it stays open");
            ip("link delete tap0");
            ip("tuntap add tap0 mode tap");
            ip("link set tap0 up");
            assert!(found().contains("failed to check"), "another of that name is not the one that was opened");
            assert_eq!(found(), "");
            world.attach().unwrap();
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
