//! The tree as the program finds it: the packed files, and what every system has.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use package::{Content, File, Package};

use super::contents::Contents;
use super::file_system::{Change, FileSystem};
use super::image::Image;
use super::proc::{proc_file_system, system_file_system};
use super::ram::{Body, Ram};
use super::special::Device;
use super::tree::{Program, Tree};
use crate::clock::NANOSECONDS;
use crate::system_calls::{Errno, errno};

/// Directories that are there before the packed files, and their permissions.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("dev/shm", 0o1777),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// Devices and their permissions.
const DEVICES: &[(&str, Device, u32)] = &[
    ("dev/console", Device::Console, 0o600),
    ("dev/full", Device::Full, 0o666),
    ("dev/null", Device::Null, 0o666),
    ("dev/random", Device::Random, 0o666),
    ("dev/tty", Device::Terminal, 0o666),
    ("dev/urandom", Device::UnlimitedRandom, 0o666),
    ("dev/zero", Device::Zero, 0o666),
];

/// Symbolic links.
const LINKS: &[(&str, &str)] = &[
    ("dev/fd", "/proc/self/fd"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
];

impl Tree {
    /// The tree of a package; its files may take so many bytes of RAM, and are as old as `time`, in nanoseconds since
    /// 1970.
    pub fn new(package: &Package<'static>, capacity: u64, time: u64) -> Tree {
        let mut ram = Ram::new(capacity);
        let mut images = Vec::new();
        put_standard_files(&mut ram, time);
        for file in &package.files {
            if let Err(error) = put_packed(&mut ram, &mut images, file, time) {
                sdk::println!("linux: {}: cannot be put into the tree: {}", file.path, error.name());
            }
        }
        images.sort_by_key(|image: &Rc<Image>| image.base);
        let mut tree = Tree::with_root(Box::new(ram), images);
        tree.program = Program {
            path: package.program.path,
            arguments: package.arguments.clone(),
            environment: package.environment.clone(),
        };
        // Their directories are there.
        if let Ok(proc) = proc_file_system(package.program.path, time) {
            let _ = tree.mount("/proc", "proc", Box::new(proc));
        }
        if let Ok(system) = system_file_system(time) {
            let _ = tree.mount("/sys", "sysfs", Box::new(system));
        }
        tree
    }
}

fn put_standard_files(ram: &mut Ram, time: u64) {
    // Nothing is in their way, and the room for them is there.
    for (path, permissions) in DIRECTORIES {
        let _ = put(ram, path, Ram::directory(), *permissions, time);
    }
    for (path, device, permissions) in DEVICES {
        let _ = put(ram, path, Body::Device(*device), *permissions, time);
    }
    for (path, target) in LINKS {
        let _ = put(ram, path, Body::Link((*target).into()), 0o777, time);
    }
}

fn put_packed(ram: &mut Ram, images: &mut Vec<Rc<Image>>, file: &File<'static>, time: u64) -> Result<(), Errno> {
    let body = match &file.content {
        Content::Bytes(bytes) => Body::File(Contents::Packed(bytes)),
        Content::Directory => Ram::directory(),
        Content::Link(target) => Body::Link((*target).into()),
        Content::Object { .. } => {
            let image = Rc::new(Image::new(file).ok_or(errno::ENOEXEC)?);
            images.push(image.clone());
            Body::Image(image)
        }
    };
    let node = put(ram, file.path, body, u32::from(file.permissions), time)?;
    let modified = file.modified_s.map(|seconds| seconds.saturating_mul(NANOSECONDS));
    ram.change(node, &Change { modified, ..Change::default() }, time)
}

/// Puts a node at a path, through directories only; those that are missing are made. A directory that is there already
/// gets the permissions. Returns the node's number.
///
/// # Errors
/// ENOTDIR where something else is in the way, EEXIST, ENOSPC.
pub fn put(ram: &mut Ram, path: &str, body: Body, permissions: u32, time: u64) -> Result<u64, Errno> {
    let path = path.trim_matches('/');
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut directory = ram.root();
    for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
        directory = match ram.lookup(directory, parent)? {
            Some(found) => found,
            None => ram.put(directory, parent, Ram::directory(), 0o755, time)?,
        };
    }
    let found = if name.is_empty() { Some(directory) } else { ram.lookup(directory, name)? };
    match (found, &body) {
        (None, _) => ram.put(directory, name, body, permissions, time),
        (Some(found), Body::Directory(_)) if ram.attributes(found)?.kind.is_directory() => {
            ram.change(found, &Change { permissions: Some(permissions), ..Change::default() }, time)?;
            Ok(found)
        }
        _ => Err(errno::EEXIST),
    }
}
