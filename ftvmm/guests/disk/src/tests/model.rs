//! Any row of operations does to the file system what it does to a map from paths to contents.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::memory::MemoryDevice;
use super::{content, mount};
use crate::format::CAPACITY_BYTES_MIN;
use crate::{Disk, DiskError, Inode, Kind};

/// Names in the root directory; each may be a directory with the same names again.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Operation {
    Create(String),
    CreateDirectory(String),
    Write(String, usize, usize, u8),
    Truncate(String, usize),
    Remove(String),
    RemoveDirectory(String),
    Rename(String, String),
    Sync,
    /// all is synced, and the device is mounted again, put away in order or not
    Remount(bool),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let name = || prop::sample::select(NAMES.as_slice());
    let path = || {
        prop_oneof![
            name().prop_map(str::to_string),
            (name(), name()).prop_map(|(above, name)| format!("{above}/{name}"))
        ]
    };
    let size = || prop_oneof![0..600usize, 0..20_000usize, 0..200_000usize];
    let operation = prop_oneof![
        4 => path().prop_map(Operation::Create),
        2 => path().prop_map(Operation::CreateDirectory),
        6 => (path(), size(), size(), 1..255u8).prop_map(|(path, at, length, byte)| Operation::Write(path, at, length, byte)),
        2 => (path(), size()).prop_map(|(path, size)| Operation::Truncate(path, size)),
        2 => path().prop_map(Operation::Remove),
        1 => path().prop_map(Operation::RemoveDirectory),
        3 => (path(), path()).prop_map(|(old, new)| Operation::Rename(old, new)),
        2 => Just(Operation::Sync),
        1 => any::<bool>().prop_map(Operation::Remount),
    ];
    prop::collection::vec(operation, 1..150)
}

/// Paths, and contents of files; None is a directory.
type Model = BTreeMap<String, Option<Vec<u8>>>;

fn expect_parent(model: &Model, path: &str) -> Result<(), DiskError> {
    match path.rsplit_once('/').map(|(above, _)| model.get(above)) {
        Some(None) => Err(DiskError::NotFound),
        Some(Some(Some(_))) => Err(DiskError::NotDirectory),
        None | Some(Some(None)) => Ok(()),
    }
}

fn expect_new(model: &Model, path: &str) -> Result<(), DiskError> {
    expect_parent(model, path)?;
    if model.contains_key(path) { Err(DiskError::AlreadyExists) } else { Ok(()) }
}

fn expect_file<'a>(model: &'a mut Model, path: &str) -> Result<&'a mut Vec<u8>, DiskError> {
    expect_parent(model, path)?;
    model.get_mut(path).ok_or(DiskError::NotFound)?.as_mut().ok_or(DiskError::IsDirectory)
}

fn is_empty(model: &Model, path: &str) -> bool {
    !model.keys().any(|other| other.starts_with(&format!("{path}/")))
}

fn do_to_model(model: &mut Model, operation: &Operation) -> Result<(), DiskError> {
    match operation {
        Operation::Create(path) => {
            expect_new(model, path)?;
            model.insert(path.clone(), Some(Vec::new()));
        }
        Operation::CreateDirectory(path) => {
            expect_new(model, path)?;
            model.insert(path.clone(), None);
        }
        Operation::Write(path, at, length, byte) => {
            let content = expect_file(model, path)?;
            if *length > 0 {
                content.resize(content.len().max(at + length), 0);
            }
            content.iter_mut().skip(*at).take(*length).for_each(|place| *place = *byte);
        }
        Operation::Truncate(path, size) => expect_file(model, path)?.resize(*size, 0),
        Operation::Remove(path) => {
            expect_file(model, path)?;
            model.remove(path);
        }
        Operation::RemoveDirectory(path) => {
            expect_parent(model, path)?;
            match model.get(path).ok_or(DiskError::NotFound)? {
                Some(_) => return Err(DiskError::NotDirectory),
                None if !is_empty(model, path) => return Err(DiskError::NotEmpty),
                None => model.remove(path),
            };
        }
        Operation::Rename(old, new) => {
            expect_parent(model, old)?;
            let source = model.get(old).ok_or(DiskError::NotFound)?.clone();
            expect_parent(model, new)?;
            if old == new {
                return Ok(());
            }
            match (&source, model.get(new)) {
                (None, _) if new.starts_with(&format!("{old}/")) => return Err(DiskError::Invalid),
                (_, Some(None)) if old.starts_with(&format!("{new}/")) => return Err(DiskError::NotEmpty),
                (Some(_), Some(None)) => return Err(DiskError::IsDirectory),
                (None, Some(Some(_))) => return Err(DiskError::NotDirectory),
                (None, Some(None)) if !is_empty(model, new) => return Err(DiskError::NotEmpty),
                _ => {}
            }
            let below = format!("{old}/");
            let moved: Vec<_> = model.keys().filter(|path| path.starts_with(&below)).cloned().collect();
            for path in moved {
                let content = model.remove(&path).unwrap();
                model.insert(format!("{new}/{}", &path[below.len()..]), content);
            }
            model.remove(old);
            model.insert(new.clone(), source);
        }
        Operation::Sync | Operation::Remount(_) => {}
    }
    Ok(())
}

/// The directory that a path is in, and its last name.
fn parent<'a>(disk: &mut Disk, path: &'a str) -> Result<(Inode, &'a [u8]), DiskError> {
    let (mut directory, mut name) = (disk.root(), path);
    while let Some((above, below)) = name.split_once('/') {
        directory = disk.lookup(directory, above.as_bytes())?.inode;
        name = below;
    }
    Ok((directory, name.as_bytes()))
}

fn file(disk: &mut Disk, path: &str) -> Result<Inode, DiskError> {
    let (directory, name) = parent(disk, path)?;
    Ok(disk.lookup(directory, name)?.inode)
}

fn do_to_disk(disk: &mut Disk, operation: &Operation) -> Result<(), DiskError> {
    match operation {
        Operation::Create(path) => {
            let (directory, name) = parent(disk, path)?;
            disk.create(directory, name, 0o644).map(drop)
        }
        Operation::CreateDirectory(path) => {
            let (directory, name) = parent(disk, path)?;
            disk.create_directory(directory, name, 0o755).map(drop)
        }
        Operation::Write(path, at, length, byte) => {
            let file = file(disk, path)?;
            disk.write_at(file, *at as u64, &vec![*byte; *length]).map(drop)
        }
        Operation::Truncate(path, size) => {
            let file = file(disk, path)?;
            disk.truncate(file, *size as u64)
        }
        Operation::Remove(path) => {
            let (directory, name) = parent(disk, path)?;
            disk.remove(directory, name)
        }
        Operation::RemoveDirectory(path) => {
            let (directory, name) = parent(disk, path)?;
            disk.remove_directory(directory, name)
        }
        Operation::Rename(old, new) => {
            let (old_directory, old_name) = parent(disk, old)?;
            disk.lookup(old_directory, old_name)?;
            let (new_directory, new_name) = parent(disk, new)?;
            disk.rename(old_directory, old_name, new_directory, new_name)
        }
        Operation::Sync | Operation::Remount(_) => disk.sync(),
    }
}

/// All that the file system holds.
fn read_back(disk: &mut Disk) -> Model {
    let mut model = Model::new();
    let mut directories = vec![(disk.root(), String::new())];
    while let Some((directory, above)) = directories.pop() {
        for entry in disk.list(directory).unwrap() {
            let path = format!("{above}{}", String::from_utf8(entry.name).unwrap());
            match entry.kind {
                Kind::Directory => {
                    directories.push((entry.inode, format!("{path}/")));
                    model.insert(path, None);
                }
                _ => {
                    let content = content(disk, entry.inode).unwrap();
                    model.insert(path, Some(content));
                }
            }
        }
    }
    // ext4 keeps one for what a check of the file system finds.
    assert_eq!(model.remove("lost+found"), Some(None));
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn files_and_directories_are_as_a_map_has_them(operations in operations()) {
        let device = MemoryDevice::new(CAPACITY_BYTES_MIN as usize);
        let (mut disk, mut model) = (mount(&device).unwrap(), Model::new());
        let free = disk.usage();
        for operation in &operations {
            let (done, expected) = (do_to_disk(&mut disk, operation), do_to_model(&mut model, operation));
            prop_assert_eq!(done, expected, "{:?}", operation);
            if let Operation::Remount(in_order) = operation {
                if *in_order {
                    disk.unmount().unwrap();
                }
                disk = mount(&device).unwrap();
                prop_assert_eq!(read_back(&mut disk), model.clone());
            }
        }
        prop_assert_eq!(read_back(&mut disk), model.clone());

        // What is removed is given back.
        for path in model.keys().rev() {
            let (directory, name) = parent(&mut disk, path).unwrap();
            let is_directory = disk.lookup(directory, name).unwrap().kind == Kind::Directory;
            if is_directory { disk.remove_directory(directory, name) } else { disk.remove(directory, name) }.unwrap();
        }
        prop_assert_eq!(disk.usage(), free);
        disk.unmount().unwrap();
        drop(device.take_writes());
    }
}
