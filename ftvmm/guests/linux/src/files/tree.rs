//! All files that have names: the mounted file systems as one tree, and what can be done with names in it. What Linux
//! checks for every file system is checked here.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::file_system::{Attributes, Change, Entry, FileSystem, New, Node, Space};
use super::image::Image;
pub use super::image::MappedObject;
use super::walk::{Last, Name, Target, Walk};
use crate::system_calls::{Errno, errno};

/// The program, as /proc shows it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// its path
    pub path: &'static str,
    /// its arguments, its own name first
    pub arguments: Vec<&'static str>,
    /// its environment
    pub environment: Vec<&'static str>,
}

/// A mounted file system.
struct Mount {
    system: Box<dyn FileSystem>,
    /// the directory that it covers, None for the first one
    covered: Option<Node>,
    path: String,
    source: String,
}

/// The tree, and the process's place in it.
pub struct Tree {
    mounts: Vec<Mount>,
    working: Node,
    /// permissions that new files do not get
    pub umask: u32,
    /// the program, as /proc shows it
    pub program: Program,
    images: Vec<Rc<Image>>,
    last_number: u64,
}

impl Tree {
    /// A tree of one file system. `images` are the packed objects.
    pub fn with_root(system: Box<dyn FileSystem>, images: Vec<Rc<Image>>) -> Tree {
        let root = Node { mount: 0, number: system.root() };
        let first = Mount { system, covered: None, path: "/".to_string(), source: "rootfs".to_string() };
        let mut tree = Tree {
            mounts: alloc::vec![first],
            working: root,
            umask: 0o022,
            program: Program::default(),
            images,
            last_number: 0,
        };
        tree.open(root);
        tree
    }

    /// Mounts a file system at a directory; `source` is what /proc/mounts says that it comes from.
    ///
    /// # Errors
    /// As the path's; ENOTDIR.
    pub fn mount(&mut self, path: &str, source: &str, system: Box<dyn FileSystem>) -> Result<(), Errno> {
        let walk = self.walk(self.root(), path, Last::Follow, &|_| None)?;
        let covered = walk.node()?;
        if !walk.is_directory {
            return Err(errno::ENOTDIR);
        }
        self.open(covered);
        let (path, source) = (path.to_string(), source.to_string());
        self.mounts.push(Mount { system, covered: Some(covered), path, source });
        Ok(())
    }

    /// The mounted file systems: source, path and type of each.
    pub fn mounts(&self) -> impl Iterator<Item = (&str, &str, &'static str)> {
        self.mounts.iter().map(|mount| (&mount.source[..], &mount.path[..], mount.system.name()))
    }

    /// The packed objects, by ascending address.
    pub fn images(&self) -> &[Rc<Image>] {
        &self.images
    }

    /// A number that no file has yet, for those without a name.
    pub fn unique_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The first directory.
    pub fn root(&self) -> Node {
        Node { mount: 0, number: self.mounts[0].system.root() }
    }

    /// The working directory.
    pub fn working(&self) -> Node {
        self.working
    }

    /// Changes the working directory.
    pub fn set_working(&mut self, directory: Node) {
        self.open(directory);
        self.close(self.working);
        self.working = directory;
    }

    fn system(&self, node: Node) -> &dyn FileSystem {
        &*self.mounts[node.mount].system
    }

    fn system_mut(&mut self, node: Node) -> &mut dyn FileSystem {
        &mut *self.mounts[node.mount].system
    }

    /// What is known of a node.
    ///
    /// # Errors
    /// As the file system's.
    pub fn attributes(&self, node: Node) -> Result<Attributes, Errno> {
        self.system(node).attributes(node.number)
    }

    /// What has that name in a directory: behind a mount point, the first directory of what is mounted there.
    ///
    /// # Errors
    /// As the file system's.
    pub fn lookup(&self, directory: Node, name: &str) -> Result<Option<Node>, Errno> {
        let Some(number) = self.system(directory).lookup(directory.number, name)? else { return Ok(None) };
        let mut node = Node { mount: directory.mount, number };
        // The last one that was mounted there covers the others.
        while let Some(mount) = self.mounts.iter().rposition(|mount| mount.covered == Some(node)) {
            node = Node { mount, number: self.mounts[mount].system.root() };
        }
        Ok(Some(node))
    }

    /// The directory that a directory is in, across mounts.
    ///
    /// # Errors
    /// ENOENT where it has been removed.
    pub fn parent(&self, directory: Node) -> Result<Node, Errno> {
        let place = self.uncovered(directory);
        Ok(Node { mount: place.mount, number: self.system(place).parent(place.number)? })
    }

    /// The directory that the first directory of a mounted file system covers; any other node itself.
    fn uncovered(&self, node: Node) -> Node {
        let mut place = node;
        while self.system(place).root() == place.number
            && let Some(covered) = self.mounts[place.mount].covered
        {
            place = covered;
        }
        place
    }

    /// The path of a directory.
    ///
    /// # Errors
    /// ENOENT where it has been removed.
    pub fn path_of(&self, directory: Node) -> Result<String, Errno> {
        let mut names = Vec::new();
        let mut place = self.uncovered(directory);
        while place != self.root() {
            if self.attributes(place)?.links == 0 {
                return Err(errno::ENOENT);
            }
            let parent = self.system(place).parent(place.number)?;
            names.push(self.system(place).name_of(parent, place.number)?);
            place = self.uncovered(Node { mount: place.mount, number: parent });
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        Ok(if path.is_empty() { "/".to_string() } else { path })
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL where it is none.
    pub fn read_link(&self, node: Node) -> Result<String, Errno> {
        self.system(node).read_link(node.number)
    }

    /// Shows the entries of a directory behind a place, until `take` does not want more. `.` and `..` are not among
    /// them.
    ///
    /// # Errors
    /// As the file system's.
    pub fn list(&self, directory: Node, behind: u64, take: &mut dyn FnMut(Entry) -> bool) -> Result<(), Errno> {
        self.system(directory).list(directory.number, behind, take)
    }

    /// Reads from a regular file.
    ///
    /// # Errors
    /// As the file system's.
    pub fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.system(node).read_at(node.number, offset, buffer)
    }

    /// Writes into a regular file.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write_at(&mut self, node: Node, offset: u64, bytes: &[u8], time: u64) -> Result<usize, Errno> {
        self.system_mut(node).write_at(node.number, offset, bytes, time)
    }

    /// Sets the length of a regular file.
    ///
    /// # Errors
    /// As the file system's.
    pub fn truncate(&mut self, node: Node, length: u64, time: u64) -> Result<(), Errno> {
        self.system_mut(node).truncate(node.number, length, time)
    }

    /// Fills a part of a regular file with zeros.
    ///
    /// # Errors
    /// As the file system's.
    pub fn clear(&mut self, node: Node, offset: u64, length: u64, time: u64) -> Result<(), Errno> {
        self.system_mut(node).clear(node.number, offset, length, time)
    }

    /// Changes what is known of a node.
    ///
    /// # Errors
    /// As the file system's.
    pub fn change(&mut self, node: Node, change: &Change, time: u64) -> Result<(), Errno> {
        self.system_mut(node).change(node.number, change, time)
    }

    /// Somebody uses a node: it stays until it is closed as often.
    pub fn open(&mut self, node: Node) {
        self.system_mut(node).open(node.number);
    }

    /// The opposite of [`Tree::open`].
    pub fn close(&mut self, node: Node) {
        self.system_mut(node).close(node.number);
    }

    /// Brings a file to its device, or everything.
    ///
    /// # Errors
    /// EIO.
    pub fn synchronise(&mut self, node: Option<Node>) -> Result<(), Errno> {
        match node {
            Some(node) => self.system_mut(node).synchronise(Some(node.number)),
            None => {
                let outcomes: Vec<_> = self.mounts.iter_mut().map(|mount| mount.system.synchronise(None)).collect();
                outcomes.into_iter().collect()
            }
        }
    }

    /// When what nobody has brought to its device is to be brought there: in nanoseconds since 1970.
    pub fn write_back_time(&self) -> Option<u64> {
        /// As often as ext4 commits where nobody asks for it, in nanoseconds.
        const DELAY_NANOSECONDS: u64 = 5_000_000_000;
        let since = self.mounts.iter().filter_map(|mount| mount.system.changed_since()).min();
        since.map(|since| since.saturating_add(DELAY_NANOSECONDS))
    }

    /// Brings everything to its device where it is time to.
    pub fn write_back(&mut self, time: u64) {
        if self.write_back_time().is_some_and(|due| due <= time) {
            // The next fsync tells of an error.
            let _ = self.synchronise(None);
        }
    }

    /// How much room the file system of a node has.
    pub fn space(&self, node: Node) -> Space {
        self.system(node).space()
    }

    /// Makes a node where a path leads; permissions are without the umask already.
    ///
    /// # Errors
    /// EEXIST; ENOENT where a slash follows the name of what is no directory; as the file system's.
    pub fn create(&mut self, walk: &Walk, new: &New, permissions: u32, time: u64) -> Result<Node, Errno> {
        let name = free_name(walk, *new == New::Directory)?;
        let directory = walk.directory;
        let number = self.system_mut(directory).create(directory.number, name, new, permissions, time)?;
        Ok(Node { mount: directory.mount, number })
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// EEXIST; EXDEV; EPERM for a directory; as the file system's.
    pub fn link(&mut self, node: Node, walk: &Walk, time: u64) -> Result<(), Errno> {
        let name = free_name(walk, false)?;
        if node.mount != walk.directory.mount {
            return Err(errno::EXDEV);
        }
        if self.attributes(node)?.kind.is_directory() {
            return Err(errno::EPERM);
        }
        self.system_mut(node).link(node.number, walk.directory.number, name, time)
    }

    /// Takes the name of what is no directory away.
    ///
    /// # Errors
    /// ENOENT; EISDIR; ENOTDIR where a slash follows; as the file system's.
    pub fn unlink(&mut self, walk: &Walk, time: u64) -> Result<(), Errno> {
        let Name::Normal(name) = &walk.name else { return Err(errno::EISDIR) };
        let node = match walk.target.ok_or(errno::ENOENT)? {
            Target::Node(node) => node,
            Target::Link(_) | Target::Object(_) => return Err(errno::EPERM),
        };
        if self.attributes(node)?.kind.is_directory() {
            return Err(errno::EISDIR);
        }
        if walk.has_slash {
            return Err(errno::ENOTDIR);
        }
        self.system_mut(walk.directory).remove(walk.directory.number, name, time)
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// EINVAL for `.`, ENOTEMPTY for `..`, EBUSY for a mount point, ENOENT, ENOTDIR; as the file system's.
    pub fn remove_directory(&mut self, walk: &Walk, time: u64) -> Result<(), Errno> {
        let name = match &walk.name {
            Name::Normal(name) => name,
            Name::Dot => return Err(errno::EINVAL),
            Name::DotDot => return Err(errno::ENOTEMPTY),
            Name::Root => return Err(errno::EBUSY),
        };
        match walk.target.ok_or(errno::ENOENT)? {
            Target::Node(_) if !walk.is_directory => Err(errno::ENOTDIR),
            Target::Node(node) if node.mount != walk.directory.mount => Err(errno::EBUSY),
            Target::Node(_) => self.system_mut(walk.directory).remove(walk.directory.number, name, time),
            Target::Link(_) | Target::Object(_) => Err(errno::ENOTDIR),
        }
    }

    /// Moves a name; `is_new` does not allow it to replace another.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&mut self, from: &Walk, to: &Walk, is_new: bool, time: u64) -> Result<(), Errno> {
        if from.directory.mount != to.directory.mount {
            return Err(errno::EXDEV);
        }
        let Name::Normal(from_name) = &from.name else { return Err(errno::EBUSY) };
        let Name::Normal(to_name) = &to.name else {
            return Err(if is_new { errno::EEXIST } else { errno::EBUSY });
        };
        let source = match from.target.ok_or(errno::ENOENT)? {
            Target::Node(node) => node,
            Target::Link(_) | Target::Object(_) => return Err(errno::EPERM),
        };
        if is_new && to.target.is_some() {
            return Err(errno::EEXIST);
        }
        if !from.is_directory && (from.has_slash || to.has_slash) {
            return Err(errno::ENOTDIR);
        }
        if from.is_directory && self.is_within(to.directory, source)? {
            return Err(errno::EINVAL);
        }
        if let Some(target) = to.target {
            let Target::Node(target) = target else { return Err(errno::EPERM) };
            if to.is_directory && self.is_within(from.directory, target)? {
                return Err(errno::ENOTEMPTY);
            }
            if source == target {
                return Ok(());
            }
            match (from.is_directory, to.is_directory) {
                (true, false) => return Err(errno::ENOTDIR),
                (false, true) => return Err(errno::EISDIR),
                _ if target.mount != to.directory.mount => return Err(errno::EBUSY),
                _ => {}
            }
        }
        if source.mount != from.directory.mount {
            return Err(errno::EBUSY);
        }
        let (from_place, to_place) = ((from.directory.number, &from_name[..]), (to.directory.number, &to_name[..]));
        self.system_mut(source).rename(from_place, to_place, time)
    }

    /// Whether a directory is another one or lies in it.
    fn is_within(&self, directory: Node, other: Node) -> Result<bool, Errno> {
        let mut place = directory;
        loop {
            if place == other {
                return Ok(true);
            }
            if place == self.root() {
                return Ok(false);
            }
            place = self.parent(place)?;
        }
    }
}

/// The name that something new gets.
fn free_name(walk: &Walk, is_directory: bool) -> Result<&str, Errno> {
    match &walk.name {
        Name::Normal(_) if walk.target.is_some() => Err(errno::EEXIST),
        Name::Normal(_) if walk.has_slash && !is_directory => Err(errno::ENOENT),
        Name::Normal(name) => Ok(name),
        _ => Err(errno::EEXIST),
    }
}

/// Whether a node with these attributes can be executed, which is all that root may not do with any file.
pub fn is_executable(attributes: &Attributes) -> bool {
    attributes.kind.is_directory() || attributes.permissions & 0o111 != 0
}
