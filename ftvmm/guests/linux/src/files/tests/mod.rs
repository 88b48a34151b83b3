//! Tests of the tree on file systems in RAM.

mod mounts;
mod names;
mod setup;
mod walks;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use package::{Content, File, Package, Program};

use super::file_system::{Change, FileSystem, Kind, New, Node};
use super::ram::{Body, Ram};
use super::setup::put;
use super::special::Device;
use super::tree::Tree;
use super::walk::{Last, Name, Target, Walk};
use crate::system_calls::{Errno, errno};

const NOW: u64 = 7;
const ROOM: u64 = 1 << 30;

fn tree() -> Tree {
    Tree::with_root(Box::new(Ram::new(ROOM)), vec![])
}

fn walk(tree: &Tree, path: &str, last: Last) -> Result<Walk, Errno> {
    tree.walk(tree.working(), path, last, &|_| None)
}

fn find(tree: &Tree, path: &str) -> Result<Node, Errno> {
    walk(tree, path, Last::Follow)?.node()
}

fn create(tree: &mut Tree, path: &str, new: New) -> Result<Node, Errno> {
    let walk = walk(tree, path, Last::Name)?;
    tree.create(&walk, &new, 0o755, NOW)
}

fn mkdir(tree: &mut Tree, path: &str) -> Result<Node, Errno> {
    create(tree, path, New::Directory)
}

fn file(tree: &mut Tree, path: &str) -> Node {
    create(tree, path, New::File).unwrap()
}

fn symlink(tree: &mut Tree, target: &str, path: &str) {
    create(tree, path, New::Link(target)).unwrap();
}

fn link(tree: &mut Tree, old: &str, new: &str) -> Result<(), Errno> {
    let node = walk(tree, old, Last::Keep)?.node()?;
    let walk = walk(tree, new, Last::Name)?;
    tree.link(node, &walk, NOW)
}

fn unlink(tree: &mut Tree, path: &str) -> Result<(), Errno> {
    let walk = walk(tree, path, Last::Name)?;
    tree.unlink(&walk, NOW)
}

fn rmdir(tree: &mut Tree, path: &str) -> Result<(), Errno> {
    let walk = walk(tree, path, Last::Name)?;
    tree.remove_directory(&walk, NOW)
}

fn rename(tree: &mut Tree, from: &str, to: &str) -> Result<(), Errno> {
    rename_as(tree, from, to, false)
}

fn rename_as(tree: &mut Tree, from: &str, to: &str, is_new: bool) -> Result<(), Errno> {
    let (from, to) = (walk(tree, from, Last::Name)?, walk(tree, to, Last::Name)?);
    tree.rename(&from, &to, is_new, NOW)
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let mut names = vec![];
    tree.list(find(tree, path).unwrap(), 0, &mut |entry| {
        names.push(entry.name.to_string());
        true
    })
    .unwrap();
    names
}

fn links(tree: &Tree, path: &str) -> u64 {
    tree.attributes(walk(tree, path, Last::Keep).unwrap().node().unwrap()).unwrap().links
}
