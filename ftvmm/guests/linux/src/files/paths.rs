//! What the paths of system calls lead to: from the root, the working directory or an open directory.

use linux_raw_sys::general::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

use super::Files;
use super::file_system::Node;
use super::open_node::OpenNode;
use super::walk::{Last, Target, Walk};
use crate::kernel::Kernel;
use crate::system_calls::{Errno, errno};

impl Files {
    /// Follows a path from a directory.
    ///
    /// # Errors
    /// As [`super::tree::Tree::walk`].
    pub fn walk(&self, start: Node, path: &str, last: Last) -> Result<Walk, Errno> {
        self.tree.walk(start, path, last, &|number| {
            let file = self.get(number).ok()?;
            Some(file.kind::<OpenNode>().map(|opened| opened.node))
        })
    }

    /// Follows a path from the directory that the descriptor stands for, or the working directory for AT_FDCWD.
    ///
    /// # Errors
    /// ENOENT for an empty path; EBADF, ENOTDIR; as [`super::tree::Tree::walk`].
    pub fn walk_at(&self, directory: i32, path: &str, last: Last) -> Result<Walk, Errno> {
        let start = match path.bytes().next() {
            None => return Err(errno::ENOENT),
            Some(b'/') => self.tree.root(),
            Some(_) if directory == AT_FDCWD => self.tree.working(),
            Some(_) => self.directory(directory)?,
        };
        self.walk(start, path, last)
    }

    /// The directory that a descriptor stands for.
    ///
    /// # Errors
    /// EBADF, ENOTDIR.
    pub fn directory(&self, descriptor: i32) -> Result<Node, Errno> {
        let file = self.get(descriptor)?;
        let opened = file.kind::<OpenNode>().filter(|opened| opened.kind.is_directory());
        opened.map(|opened| opened.node).ok_or(errno::ENOTDIR)
    }

    /// What a descriptor stands for, as the target of a path.
    ///
    /// # Errors
    /// EBADF.
    pub fn target(&self, descriptor: i32) -> Result<Target, Errno> {
        let file = self.get(descriptor)?;
        let opened = file.kind::<OpenNode>();
        Ok(opened.map_or(Target::Object(descriptor), |opened| Target::Node(opened.node)))
    }
}

impl Kernel {
    /// Follows the path at an address of the program.
    ///
    /// # Errors
    /// EFAULT; as [`Files::walk_at`].
    pub fn walk_at(&self, directory: i32, path: u64, last: Last) -> Result<Walk, Errno> {
        let path = self.memory.text(path)?;
        self.files.walk_at(directory, path, last)
    }

    /// What a path leads to, with AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH (the descriptor itself) among the flags.
    ///
    /// # Errors
    /// As [`Kernel::walk_at`]; ENOENT.
    pub fn target_at(&self, directory: i32, path: u64, flags: u32) -> Result<Target, Errno> {
        let path = self.memory.text(path)?;
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            return match directory {
                AT_FDCWD => Ok(Target::Node(self.files.tree.working())),
                directory => self.files.target(directory),
            };
        }
        let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        self.files.walk_at(directory, path, last)?.found()
    }
}
