//! The file system in RAM: what was packed, and what the program adds to it.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};

use linux_raw_sys::general::TMPFS_MAGIC;

use super::contents::Contents;
use super::file_system::{Attributes, BLOCK_BYTES, Change, Entry, FileSystem, Kind, New, Space};
use super::image::Image;
use super::proc::Generated;
use super::special::Device;
use crate::system_calls::{Errno, errno};

/// What a node takes of the room beside its content, in bytes.
const NODE_BYTES: u64 = 512;
/// What a name adds to the length of a directory, as Linux's tmpfs counts it.
const NAME_BYTES: u64 = 20;
/// The permission bit of a directory that its group is shared.
const SET_GROUP: u32 = 0o2000;
/// The number of the first directory.
const ROOT: u64 = 1;
/// The first place in a directory.
const FIRST_PLACE: u64 = 1;

/// What a node is and holds.
pub enum Body {
    /// a regular file
    File(Contents),
    /// a packed object
    Image(Rc<Image>),
    /// a directory
    Directory(Directory),
    /// where a symbolic link leads
    Link(Rc<str>),
    /// a local socket's name
    Socket,
    /// a device
    Device(Device),
    /// a file that is made when it is read
    Generated(Generated),
    /// the directory of the process's descriptors, in that directory
    Descriptors(u64),
    /// the link to the working directory
    WorkingDirectory,
}

/// Names, and the order in which they came.
pub struct Directory {
    parent: u64,
    names: BTreeMap<Rc<str>, Slot>,
    order: BTreeMap<u64, Rc<str>>,
    next_place: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    number: u64,
    place: u64,
}

impl Directory {
    fn new(parent: u64) -> Directory {
        Directory { parent, names: BTreeMap::new(), order: BTreeMap::new(), next_place: FIRST_PLACE }
    }

    fn insert(&mut self, name: &str, number: u64) {
        let name: Rc<str> = name.into();
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, name.clone());
        self.names.insert(name, Slot { number, place });
    }

    fn remove(&mut self, name: &str) {
        if let Some(slot) = self.names.remove(name) {
            self.order.remove(&slot.place);
        }
    }
}

struct Inode {
    body: Body,
    permissions: u32,
    owner: u32,
    group: u32,
    /// names; a directory has its own `.` and its directories' `..` as well
    links: u64,
    opened: u64,
    accessed: u64,
    modified: u64,
    changed: u64,
}

impl Inode {
    fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Image(image) => Kind::Image(image.clone()),
            Body::Directory(_) => Kind::Directory,
            Body::Link(_) => Kind::Link,
            Body::Socket => Kind::Socket,
            Body::Device(device) => Kind::Device(*device),
            Body::Generated(generated) => Kind::Generated(*generated),
            Body::Descriptors(_) => Kind::Descriptors,
            Body::WorkingDirectory => Kind::WorkingDirectory,
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_) | Body::Descriptors(_))
    }
}

/// A file system in RAM.
pub struct Ram {
    name: &'static str,
    magic: u32,
    inodes: BTreeMap<u64, Inode>,
    next_number: u64,
    /// all room in bytes, and what is left of it
    capacity: u64,
    free: u64,
    /// whether the program can change nothing but the content of files
    is_fixed: bool,
}

impl Ram {
    /// An empty file system with that room in bytes, whose first directory has the permissions that everybody expects
    /// of `/`.
    pub fn new(capacity: u64) -> Ram {
        Ram::named("tmpfs", TMPFS_MAGIC, capacity)
    }

    /// The same under another type's name and magic number.
    pub fn named(name: &'static str, magic: u32, capacity: u64) -> Ram {
        let mut ram =
            Ram { name, magic, inodes: BTreeMap::new(), next_number: ROOT, capacity, free: capacity, is_fixed: false };
        ram.add(Body::Directory(Directory::new(ROOT)), 0o755, 2, 0);
        ram
    }

    /// From now on the program can add, move and remove nothing.
    pub fn fix(&mut self) {
        self.is_fixed = true;
    }

    fn add(&mut self, body: Body, permissions: u32, links: u64, time: u64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.free = self.free.saturating_sub(NODE_BYTES);
        let inode = Inode {
            body,
            permissions,
            owner: 0,
            group: 0,
            links,
            opened: 0,
            accessed: time,
            modified: time,
            changed: time,
        };
        self.inodes.insert(number, inode);
        number
    }

    /// Puts a node into a directory.
    ///
    /// # Errors
    /// ENOENT where the directory has been removed, ENOSPC.
    pub fn put(&mut self, directory: u64, name: &str, body: Body, permissions: u32, time: u64) -> Result<u64, Errno> {
        if self.inode(directory)?.links == 0 {
            return Err(errno::ENOENT);
        }
        if self.free < NODE_BYTES {
            return Err(errno::ENOSPC);
        }
        let (body, is_directory) = match body {
            Body::Directory(mut own) => {
                own.parent = directory;
                (Body::Directory(own), true)
            }
            Body::Descriptors(_) => (Body::Descriptors(directory), true),
            other => (other, false),
        };
        // What is made in a directory with setgid gets its group, and a directory the bit as well.
        let parent = self.inode(directory)?;
        let (group, is_shared) = (parent.group, parent.permissions & SET_GROUP != 0);
        let permissions = permissions | if is_shared && is_directory { SET_GROUP } else { 0 };
        let number = self.add(body, permissions, if is_directory { 2 } else { 1 }, time);
        if is_shared {
            self.inode_mut(number)?.group = group;
        }
        self.insert(directory, name, number, is_directory, time)?;
        Ok(number)
    }

    /// An empty directory, to be put.
    pub fn directory() -> Body {
        Body::Directory(Directory::new(ROOT))
    }

    fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(errno::ENOENT)
    }

    fn inode_mut(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(errno::ENOENT)
    }

    fn names(&self, number: u64) -> Result<&Directory, Errno> {
        match &self.inode(number)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(errno::ENOTDIR),
        }
    }

    fn slot(&self, directory: u64, name: &str) -> Result<Slot, Errno> {
        self.names(directory)?.names.get(name).copied().ok_or(errno::ENOENT)
    }

    /// Enters a name into a directory.
    fn insert(&mut self, directory: u64, name: &str, number: u64, is_directory: bool, time: u64) -> Result<(), Errno> {
        let inode = self.inode_mut(directory)?;
        let Body::Directory(names) = &mut inode.body else { return Err(errno::ENOTDIR) };
        names.insert(name, number);
        inode.links += u64::from(is_directory);
        (inode.modified, inode.changed) = (time, time);
        Ok(())
    }

    /// Takes a name out of a directory.
    fn take_out(&mut self, directory: u64, name: &str, is_directory: bool, time: u64) -> Result<(), Errno> {
        let inode = self.inode_mut(directory)?;
        let Body::Directory(names) = &mut inode.body else { return Err(errno::ENOTDIR) };
        names.remove(name);
        inode.links = inode.links.saturating_sub(u64::from(is_directory));
        (inode.modified, inode.changed) = (time, time);
        Ok(())
    }

    /// Whether something has no names in it.
    fn is_empty(&self, number: u64) -> bool {
        self.names(number).map_or(true, |directory| directory.names.is_empty())
    }

    /// A node has lost a name.
    fn unlink(&mut self, number: u64, time: u64) -> Result<(), Errno> {
        let inode = self.inode_mut(number)?;
        inode.links = if inode.is_directory() { 0 } else { inode.links.saturating_sub(1) };
        inode.changed = time;
        self.drop_if_unused(number);
        Ok(())
    }

    fn drop_if_unused(&mut self, number: u64) {
        if self.inodes.get(&number).is_some_and(|inode| inode.links == 0 && inode.opened == 0)
            && let Some(inode) = self.inodes.remove(&number)
        {
            self.free += NODE_BYTES;
            if let Body::File(contents) = inode.body {
                self.free += contents.own_bytes();
            }
        }
    }

    /// The content of a regular file, and the room that is left.
    fn contents_mut(&mut self, number: u64, time: u64) -> Result<(&mut Contents, &mut u64), Errno> {
        let inode = self.inodes.get_mut(&number).ok_or(errno::ENOENT)?;
        let Body::File(contents) = &mut inode.body else { return Err(errno::EINVAL) };
        (inode.modified, inode.changed) = (time, time);
        Ok((contents, &mut self.free))
    }

    fn may_change(&self) -> Result<(), Errno> {
        if self.is_fixed { Err(errno::EPERM) } else { Ok(()) }
    }
}

impl FileSystem for Ram {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let inode = self.inode(node)?;
        let (size, allocated) = match &inode.body {
            Body::File(contents) => (contents.length(), contents.allocated().next_multiple_of(BLOCK_BYTES)),
            Body::Image(image) => (image.file_bytes, image.file_bytes.next_multiple_of(BLOCK_BYTES)),
            Body::Directory(directory) => ((2 + directory.names.len() as u64) * NAME_BYTES, 0),
            Body::Link(target) => (target.len() as u64, 0),
            _ => (0, 0),
        };
        Ok(Attributes {
            kind: inode.kind(),
            permissions: inode.permissions,
            owner: inode.owner,
            group: inode.group,
            links: inode.links,
            size,
            allocated,
            accessed: inode.accessed,
            modified: inode.modified,
            changed: inode.changed,
        })
    }

    fn lookup(&self, directory: u64, name: &str) -> Result<Option<u64>, Errno> {
        Ok(self.names(directory)?.names.get(name).map(|slot| slot.number))
    }

    fn parent(&self, directory: u64) -> Result<u64, Errno> {
        let parent = match &self.inode(directory)?.body {
            Body::Directory(names) => names.parent,
            Body::Descriptors(parent) => *parent,
            _ => return Err(errno::ENOTDIR),
        };
        // The parent of a directory that has been removed may have gone before it.
        self.inode(parent).map(|_| parent)
    }

    fn list(&self, directory: u64, behind: u64, take: &mut dyn FnMut(Entry) -> bool) -> Result<(), Errno> {
        if self.inode(directory)?.links == 0 {
            return Err(errno::ENOENT);
        }
        let names = self.names(directory)?;
        for (place, name) in names.order.range(behind.saturating_add(1)..) {
            let slot = self.slot(directory, name)?;
            let kind = self.inode(slot.number)?.kind();
            if !take(Entry { name, number: slot.number, kind, place: *place }) {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, node: u64) -> Result<String, Errno> {
        match &self.inode(node)?.body {
            Body::Link(target) => Ok(target.to_string()),
            _ => Err(errno::EINVAL),
        }
    }

    fn read_at(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        match &self.inode(node)?.body {
            Body::File(contents) => Ok(contents.read_at(offset, buffer)),
            Body::Image(image) => image.read_at(offset, buffer),
            _ => Err(errno::EINVAL),
        }
    }

    fn space(&self) -> Space {
        Space {
            magic: self.magic,
            block_bytes: BLOCK_BYTES,
            blocks: self.capacity / BLOCK_BYTES,
            free_blocks: self.free / BLOCK_BYTES,
            nodes: self.inodes.len() as u64 + self.free / NODE_BYTES,
            free_nodes: self.free / NODE_BYTES,
        }
    }

    fn create(&mut self, directory: u64, name: &str, new: &New, permissions: u32, time: u64) -> Result<u64, Errno> {
        if self.is_fixed {
            return Err(errno::ENOENT);
        }
        let body = match new {
            New::File => Body::File(Contents::default()),
            New::Directory => Ram::directory(),
            New::Link(target) => Body::Link((*target).into()),
            New::Socket => Body::Socket,
        };
        self.put(directory, name, body, permissions, time)
    }

    fn link(&mut self, node: u64, directory: u64, name: &str, time: u64) -> Result<(), Errno> {
        if self.is_fixed {
            return Err(errno::ENOENT);
        }
        if self.inode(directory)?.links == 0 || self.inode(node)?.links == 0 {
            return Err(errno::ENOENT);
        }
        self.insert(directory, name, node, false, time)?;
        let inode = self.inode_mut(node)?;
        inode.links += 1;
        inode.changed = time;
        Ok(())
    }

    fn remove(&mut self, directory: u64, name: &str, time: u64) -> Result<(), Errno> {
        self.may_change()?;
        let number = self.slot(directory, name)?.number;
        if !self.is_empty(number) {
            return Err(errno::ENOTEMPTY);
        }
        let is_directory = self.inode(number)?.is_directory();
        self.take_out(directory, name, is_directory, time)?;
        self.unlink(number, time)
    }

    fn rename(&mut self, from: (u64, &str), to: (u64, &str), time: u64) -> Result<(), Errno> {
        if self.is_fixed && self.lookup(to.0, to.1)?.is_none() {
            return Err(errno::ENOENT);
        }
        self.may_change()?;
        let number = self.slot(from.0, from.1)?.number;
        let is_directory = self.inode(number)?.is_directory();
        if self.inode(to.0)?.links == 0 {
            return Err(errno::ENOENT);
        }
        if let Some(replaced) = self.names(to.0)?.names.get(to.1).map(|slot| slot.number) {
            if !self.is_empty(replaced) {
                return Err(errno::ENOTEMPTY);
            }
            self.take_out(to.0, to.1, is_directory, time)?;
            self.unlink(replaced, time)?;
        }
        self.take_out(from.0, from.1, is_directory, time)?;
        self.insert(to.0, to.1, number, is_directory, time)?;
        let inode = self.inode_mut(number)?;
        inode.changed = time;
        if let Body::Directory(directory) = &mut inode.body {
            directory.parent = to.0;
        }
        Ok(())
    }

    fn change(&mut self, node: u64, change: &Change, time: u64) -> Result<(), Errno> {
        self.may_change()?;
        let inode = self.inode_mut(node)?;
        inode.permissions = change.permissions.unwrap_or(inode.permissions);
        inode.owner = change.owner.unwrap_or(inode.owner);
        inode.group = change.group.unwrap_or(inode.group);
        inode.accessed = change.accessed.unwrap_or(inode.accessed);
        inode.modified = change.modified.unwrap_or(inode.modified);
        inode.changed = time;
        Ok(())
    }

    fn write_at(&mut self, node: u64, offset: u64, bytes: &[u8], time: u64) -> Result<usize, Errno> {
        let (contents, free) = self.contents_mut(node, time)?;
        contents.write_at(offset, bytes, free)
    }

    fn truncate(&mut self, node: u64, length: u64, time: u64) -> Result<(), Errno> {
        let (contents, free) = self.contents_mut(node, time)?;
        contents.truncate(length, free);
        Ok(())
    }

    fn clear(&mut self, node: u64, offset: u64, length: u64, time: u64) -> Result<(), Errno> {
        let (contents, free) = self.contents_mut(node, time)?;
        contents.clear(offset, length, free)
    }

    fn open(&mut self, node: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.opened += 1;
        }
    }

    fn close(&mut self, node: u64) {
        if let Some(inode) = self.inodes.get_mut(&node) {
            inode.opened = inode.opened.saturating_sub(1);
        }
        self.drop_if_unused(node);
    }

    fn synchronise(&mut self, _node: Option<u64>) -> Result<(), Errno> {
        Ok(())
    }
}
