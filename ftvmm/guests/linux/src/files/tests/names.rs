//! Names that are made, moved and removed, and files that are left without one.

use super::*;

#[test]
fn what_exists_is_not_made_again() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    for path in ["/a", "/a/", "/a/.", "/a/..", "/"] {
        assert_eq!(mkdir(&mut tree, path), Err(errno::EEXIST), "{path}");
    }
    assert_eq!(mkdir(&mut tree, "/x/y"), Err(errno::ENOENT));
    assert!(mkdir(&mut tree, "/slash/").is_ok());
    assert_eq!(create(&mut tree, "/file/", New::File), Err(errno::ENOENT));
    symlink(&mut tree, "nowhere", "/dangling");
    assert_eq!(mkdir(&mut tree, "/dangling"), Err(errno::EEXIST));
    assert_eq!(create(&mut tree, "/dangling/", New::Link("x")), Err(errno::EEXIST));
}

#[test]
fn files_and_directories_are_removed_each_by_its_own_call() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    file(&mut tree, "/a/file");
    symlink(&mut tree, "/a", "/to-a");
    assert_eq!(unlink(&mut tree, "/a"), Err(errno::EISDIR));
    assert_eq!(unlink(&mut tree, "/"), Err(errno::EISDIR));
    assert_eq!(unlink(&mut tree, "/a/.."), Err(errno::EISDIR));
    assert_eq!(unlink(&mut tree, "/x"), Err(errno::ENOENT));
    assert_eq!(unlink(&mut tree, "/a/file/"), Err(errno::ENOTDIR));
    assert_eq!(unlink(&mut tree, "/a/file/x"), Err(errno::ENOTDIR));
    assert_eq!(rmdir(&mut tree, "/a"), Err(errno::ENOTEMPTY));
    assert_eq!(rmdir(&mut tree, "/a/file"), Err(errno::ENOTDIR));
    assert_eq!(rmdir(&mut tree, "/to-a"), Err(errno::ENOTDIR));
    assert_eq!(rmdir(&mut tree, "/a/."), Err(errno::EINVAL));
    assert_eq!(rmdir(&mut tree, "/a/.."), Err(errno::ENOTEMPTY));
    assert_eq!(rmdir(&mut tree, "/"), Err(errno::EBUSY));
    assert_eq!(unlink(&mut tree, "/a/file"), Ok(()));
    assert_eq!(rmdir(&mut tree, "/a/"), Ok(()));
    assert_eq!(unlink(&mut tree, "/to-a"), Ok(()));
    assert!(names(&tree, "/").is_empty());
}

#[test]
fn an_open_file_stays_without_a_name() {
    let mut tree = tree();
    let node = file(&mut tree, "/file");
    tree.write_at(node, 0, b"still here", NOW).unwrap();
    tree.open(node);
    unlink(&mut tree, "/file").unwrap();
    assert_eq!(find(&tree, "/file"), Err(errno::ENOENT));
    let mut buffer = [0; 5];
    assert_eq!(tree.read_at(node, 0, &mut buffer), Ok(5));
    assert_eq!(tree.attributes(node).unwrap().links, 0);
    assert_eq!(link(&mut tree, "/file", "/again"), Err(errno::ENOENT));
    let walk = walk(&tree, "/again", Last::Name).unwrap();
    assert_eq!(tree.link(node, &walk, NOW), Err(errno::ENOENT));
    tree.close(node);
    assert!(tree.attributes(node).is_err());
}

#[test]
fn room_comes_back_when_files_go() {
    let mut tree = tree();
    let free = tree.space(tree.root()).free_blocks;
    let node = file(&mut tree, "/file");
    tree.write_at(node, 0, &[1; 100_000], NOW).unwrap();
    assert!(tree.space(tree.root()).free_blocks < free);
    unlink(&mut tree, "/file").unwrap();
    assert_eq!(tree.space(tree.root()).free_blocks, free);
}

#[test]
fn where_no_room_is_nothing_is_made() {
    let mut tree = Tree::with_root(Box::new(Ram::new(2000)), vec![]);
    let node = file(&mut tree, "/file");
    assert_eq!(tree.write_at(node, 0, &[1; 3000], NOW), Err(errno::ENOSPC));
    file(&mut tree, "/second");
    assert_eq!(create(&mut tree, "/third", New::File), Err(errno::ENOSPC));
    unlink(&mut tree, "/second").unwrap();
    file(&mut tree, "/third");
}

#[test]
fn links_are_counted() {
    let mut tree = tree();
    let node = file(&mut tree, "/one");
    link(&mut tree, "/one", "/two").unwrap();
    assert_eq!(find(&tree, "/two"), Ok(node));
    assert_eq!(links(&tree, "/one"), 2);
    unlink(&mut tree, "/one").unwrap();
    assert_eq!(links(&tree, "/two"), 1);
    assert_eq!(links(&tree, "/"), 2);
    mkdir(&mut tree, "/a").unwrap();
    mkdir(&mut tree, "/a/b").unwrap();
    assert_eq!((links(&tree, "/"), links(&tree, "/a"), links(&tree, "/a/b")), (3, 3, 2));
    rename(&mut tree, "/a/b", "/b").unwrap();
    assert_eq!((links(&tree, "/"), links(&tree, "/a"), links(&tree, "/b")), (4, 2, 2));
    rmdir(&mut tree, "/b").unwrap();
    assert_eq!(links(&tree, "/"), 3);
}

#[test]
fn directories_get_no_second_name_and_files_none_that_is_taken() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    file(&mut tree, "/file");
    assert_eq!(link(&mut tree, "/a", "/b"), Err(errno::EPERM));
    assert_eq!(link(&mut tree, "/a", "/file"), Err(errno::EEXIST));
    assert_eq!(link(&mut tree, "/file", "/file"), Err(errno::EEXIST));
    assert_eq!(link(&mut tree, "/file", "/a/."), Err(errno::EEXIST));
    assert_eq!(link(&mut tree, "/file", "/x/y"), Err(errno::ENOENT));
    assert_eq!(link(&mut tree, "/file", "/new/"), Err(errno::ENOENT));
    symlink(&mut tree, "file", "/soft");
    link(&mut tree, "/soft", "/soft2").unwrap();
    assert_eq!(links(&tree, "/soft2"), 2);
}

#[test]
fn a_name_moves_and_takes_the_place_of_another_of_its_kind() {
    let mut tree = tree();
    let one = file(&mut tree, "/one");
    file(&mut tree, "/two");
    mkdir(&mut tree, "/empty").unwrap();
    mkdir(&mut tree, "/full").unwrap();
    file(&mut tree, "/full/x");
    rename(&mut tree, "/one", "/three").unwrap();
    assert_eq!(find(&tree, "/one"), Err(errno::ENOENT));
    rename(&mut tree, "/three", "/two").unwrap();
    assert_eq!(find(&tree, "/two"), Ok(one));
    assert_eq!(rename(&mut tree, "/two", "/empty"), Err(errno::EISDIR));
    assert_eq!(rename(&mut tree, "/empty", "/two"), Err(errno::ENOTDIR));
    assert_eq!(rename(&mut tree, "/empty", "/full"), Err(errno::ENOTEMPTY));
    assert_eq!(rename(&mut tree, "/full", "/empty"), Ok(()));
    assert_eq!(names(&tree, "/empty"), ["x"]);
    assert_eq!(rename(&mut tree, "/two", "/two"), Ok(()));
    link(&mut tree, "/two", "/also-two").unwrap();
    assert_eq!(rename(&mut tree, "/two", "/also-two"), Ok(()));
    assert_eq!(find(&tree, "/two"), find(&tree, "/also-two"));
}

#[test]
fn a_name_that_cannot_move_says_why() {
    let mut tree = tree();
    file(&mut tree, "/file");
    mkdir(&mut tree, "/a").unwrap();
    mkdir(&mut tree, "/a/b").unwrap();
    assert_eq!(rename(&mut tree, "/x", "/y"), Err(errno::ENOENT));
    assert_eq!(rename(&mut tree, "/file", "/x/y"), Err(errno::ENOENT));
    assert_eq!(rename(&mut tree, "/file", "/file/x"), Err(errno::ENOTDIR));
    assert_eq!(rename(&mut tree, "/a", "/a/b/c"), Err(errno::EINVAL));
    assert_eq!(rename(&mut tree, "/a", "/a/b"), Err(errno::EINVAL));
    assert_eq!(rename(&mut tree, "/a/b", "/a"), Err(errno::ENOTEMPTY));
    assert_eq!(rename(&mut tree, "/a/.", "/y"), Err(errno::EBUSY));
    assert_eq!(rename(&mut tree, "/file", "/"), Err(errno::EBUSY));
    assert_eq!(rename(&mut tree, "/file/", "/y"), Err(errno::ENOTDIR));
    assert_eq!(rename(&mut tree, "/file", "/y/"), Err(errno::ENOTDIR));
    assert_eq!(rename(&mut tree, "/a", "/c/"), Ok(()));
    assert_eq!(rename_as(&mut tree, "/file", "/c", true), Err(errno::EEXIST));
    assert_eq!(rename_as(&mut tree, "/file", "/", true), Err(errno::EEXIST));
    assert_eq!(rename_as(&mut tree, "/file", "/new", true), Ok(()));
}

#[test]
fn the_parent_of_a_directory_follows_it() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    mkdir(&mut tree, "/b").unwrap();
    mkdir(&mut tree, "/a/inner").unwrap();
    rename(&mut tree, "/a/inner", "/b/moved").unwrap();
    assert_eq!(find(&tree, "/b/moved/.."), find(&tree, "/b"));
    assert_eq!(tree.path_of(find(&tree, "/b/moved").unwrap()).unwrap(), "/b/moved");
}

#[test]
fn the_working_directory_stays_where_it_is() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    let inner = mkdir(&mut tree, "/a/inner").unwrap();
    assert_eq!(tree.path_of(tree.working()).unwrap(), "/");
    tree.set_working(inner);
    rename(&mut tree, "/a", "/b").unwrap();
    assert_eq!(tree.path_of(tree.working()).unwrap(), "/b/inner");
    file(&mut tree, "here");
    assert_eq!(names(&tree, "/b/inner"), ["here"]);
    unlink(&mut tree, "here").unwrap();
    rmdir(&mut tree, "../inner").unwrap();
    assert_eq!(tree.path_of(tree.working()), Err(errno::ENOENT));
    assert_eq!(create(&mut tree, "here", New::File), Err(errno::ENOENT));
    assert_eq!(find(&tree, "."), Ok(inner));
    assert_eq!(find(&tree, ".."), find(&tree, "/b"));
    tree.set_working(tree.root());
    assert!(tree.attributes(inner).is_err());
}

#[test]
fn a_directory_is_read_on_while_names_come_and_go() {
    let mut tree = tree();
    for number in 0..100 {
        file(&mut tree, &format!("/{number}"));
    }
    let (root, mut behind, mut seen) = (tree.root(), 0, vec![]);
    loop {
        let mut some = vec![];
        tree.list(root, behind, &mut |entry| {
            some.push((entry.name.to_string(), entry.place));
            some.len() < 7
        })
        .unwrap();
        let Some((_, last)) = some.last() else { break };
        behind = *last;
        for (name, _) in some {
            unlink(&mut tree, &format!("/{name}")).unwrap();
            seen.push(name);
        }
    }
    assert_eq!(seen.len(), 100);
    assert!(names(&tree, "/").is_empty());
}

#[test]
fn changes_leave_their_time() {
    let mut tree = tree();
    let directory = mkdir(&mut tree, "/a").unwrap();
    let walk_in = walk(&tree, "/a/file", Last::Name).unwrap();
    let node = tree.create(&walk_in, &New::File, 0o644, 100).unwrap();
    let times = |tree: &Tree, node| {
        let attributes = tree.attributes(node).unwrap();
        (attributes.modified, attributes.changed)
    };
    assert_eq!(times(&tree, directory), (100, 100));
    tree.write_at(node, 0, b"x", 200).unwrap();
    assert_eq!(times(&tree, node), (200, 200));
    tree.truncate(node, 0, 300).unwrap();
    assert_eq!(times(&tree, node), (300, 300));
    tree.change(node, &Change { permissions: Some(0o600), ..Change::default() }, 400).unwrap();
    assert_eq!(times(&tree, node), (300, 400));
    tree.change(node, &Change { modified: Some(5), ..Change::default() }, 500).unwrap();
    assert_eq!(times(&tree, node), (5, 500));
    assert_eq!(tree.attributes(node).unwrap().permissions, 0o600);
}

#[test]
fn what_is_made_in_a_shared_directory_belongs_to_its_group() {
    let mut tree = tree();
    let shared = mkdir(&mut tree, "/shared").unwrap();
    tree.change(shared, &Change { permissions: Some(0o2775), group: Some(50), ..Change::default() }, NOW).unwrap();
    let node = file(&mut tree, "/shared/file");
    let inner = mkdir(&mut tree, "/shared/inner").unwrap();
    let of = |node| tree.attributes(node).map(|attributes| (attributes.group, attributes.permissions)).unwrap();
    assert_eq!(of(node), (50, 0o755));
    assert_eq!(of(inner), (50, 0o2755));
}
