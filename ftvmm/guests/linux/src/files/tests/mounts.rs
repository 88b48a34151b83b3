//! More than one file system.

use super::*;

fn tree_with_mount() -> Tree {
    let mut tree = tree();
    mkdir(&mut tree, "/data").unwrap();
    file(&mut tree, "/data/covered");
    tree.mount("/data", "storage", Box::new(Ram::new(ROOM))).unwrap();
    tree
}

#[test]
fn a_mounted_file_system_covers_its_directory() {
    let mut tree = tree_with_mount();
    assert!(names(&tree, "/data").is_empty());
    let node = file(&mut tree, "/data/new");
    assert_eq!(node.mount, 1);
    assert_ne!(node.device(), tree.root().device());
    assert_eq!(find(&tree, "/data/.."), Ok(tree.root()));
    mkdir(&mut tree, "/data/inner").unwrap();
    assert_eq!(tree.path_of(find(&tree, "/data/inner").unwrap()).unwrap(), "/data/inner");
    assert_eq!(tree.path_of(find(&tree, "/data").unwrap()).unwrap(), "/data");
    assert_eq!(find(&tree, "/data/inner/../../data/new"), Ok(node));
    let mounts: Vec<_> = tree.mounts().collect();
    assert_eq!(mounts, [("rootfs", "/", "tmpfs"), ("storage", "/data", "tmpfs")]);
}

#[test]
fn nothing_moves_across_a_mount_and_its_directory_is_busy() {
    let mut tree = tree_with_mount();
    file(&mut tree, "/file");
    file(&mut tree, "/data/inside");
    mkdir(&mut tree, "/empty").unwrap();
    assert_eq!(rename(&mut tree, "/file", "/data/file"), Err(errno::EXDEV));
    assert_eq!(rename(&mut tree, "/data/inside", "/inside"), Err(errno::EXDEV));
    assert_eq!(link(&mut tree, "/file", "/data/file"), Err(errno::EXDEV));
    assert_eq!(rmdir(&mut tree, "/data"), Err(errno::EBUSY));
    assert_eq!(rename(&mut tree, "/data", "/other"), Err(errno::EBUSY));
    assert_eq!(rename(&mut tree, "/empty", "/data"), Err(errno::EBUSY));
    assert_eq!(unlink(&mut tree, "/data"), Err(errno::EISDIR));
    assert_eq!(rename(&mut tree, "/data/inside", "/data/outside"), Ok(()));
}

#[test]
fn only_a_directory_can_be_covered() {
    let mut tree = tree();
    file(&mut tree, "/file");
    let ram = || Box::new(Ram::new(ROOM));
    assert_eq!(tree.mount("/file", "x", ram()), Err(errno::ENOTDIR));
    assert_eq!(tree.mount("/missing", "x", ram()), Err(errno::ENOENT));
}
