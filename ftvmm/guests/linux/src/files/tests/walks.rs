//! Paths that are followed.

use super::*;

#[test]
fn a_path_is_followed_name_by_name() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    mkdir(&mut tree, "/a/b").unwrap();
    let node = file(&mut tree, "/a/b/c");
    for path in ["/a/b/c", "a/b/c", "//a//./b/../b/c", "/../a/b/c", "a/../a/b/./c"] {
        assert_eq!(find(&tree, path), Ok(node), "{path}");
    }
    assert_eq!(find(&tree, ""), Err(errno::ENOENT));
    assert_eq!(find(&tree, "/a/x"), Err(errno::ENOENT));
    assert_eq!(find(&tree, "/x/c"), Err(errno::ENOENT));
    assert_eq!(find(&tree, "/a/b/c/"), Err(errno::ENOTDIR));
    assert_eq!(find(&tree, "/a/b/c/d"), Err(errno::ENOTDIR));
    assert_eq!(find(&tree, "/a/b/c/.."), Err(errno::ENOTDIR));
    assert_eq!(find(&tree, "/a/b/"), find(&tree, "/a/b"));
}

#[test]
fn names_of_255_bytes_are_the_longest() {
    let mut tree = tree();
    file(&mut tree, &"n".repeat(255));
    assert_eq!(find(&tree, &"n".repeat(256)), Err(errno::ENAMETOOLONG));
    assert_eq!(create(&mut tree, &"m".repeat(256), New::File), Err(errno::ENAMETOOLONG));
    assert_eq!(find(&tree, &("n".repeat(255) + "/" + &"m".repeat(256))), Err(errno::ENOTDIR));
}

#[test]
fn the_last_name_is_told_apart_from_dots_and_the_root() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    let name = |path| walk(&tree, path, Last::Name).unwrap().name;
    assert_eq!(name("/a"), Name::Normal("a".into()));
    assert_eq!(name("/a/."), Name::Dot);
    assert_eq!(name("/a/.."), Name::DotDot);
    assert_eq!(name("///"), Name::Root);
    assert!(walk(&tree, "/a/x/", Last::Name).unwrap().has_slash);
}

#[test]
fn links_are_followed_relative_to_where_they_are() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    mkdir(&mut tree, "/a/b").unwrap();
    let node = file(&mut tree, "/a/b/c");
    symlink(&mut tree, "b", "/a/near");
    symlink(&mut tree, "/a/b/c", "/far");
    symlink(&mut tree, "../a/near/", "/a/round");
    for path in ["/a/near/c", "/far", "/a/round/c", "/a/round/../near/c"] {
        assert_eq!(find(&tree, path), Ok(node), "{path}");
    }
    assert_eq!(find(&tree, "/far/"), Err(errno::ENOTDIR));
    let kept = walk(&tree, "/far", Last::Keep).unwrap().node().unwrap();
    assert!(matches!(tree.attributes(kept).unwrap().kind, Kind::Link));
    assert_eq!(tree.read_link(kept).unwrap(), "/a/b/c");
    // A slash asks for what is behind the link; where a name is to be removed it does not.
    assert_eq!(walk(&tree, "/a/near/", Last::Keep).unwrap().node(), find(&tree, "/a/b"));
    assert!(!walk(&tree, "/a/near/", Last::Name).unwrap().is_directory);
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let mut tree = tree();
    file(&mut tree, "/link0");
    for number in 0..41 {
        symlink(&mut tree, &format!("link{number}"), &format!("/link{}", number + 1));
    }
    assert!(find(&tree, "/link40").is_ok());
    assert_eq!(find(&tree, "/link41"), Err(errno::ELOOP));
    symlink(&mut tree, "loop", "/loop");
    assert_eq!(find(&tree, "/loop"), Err(errno::ELOOP));
    assert_eq!(find(&tree, "/loop/x"), Err(errno::ELOOP));
}

#[test]
fn a_dangling_link_leads_to_where_its_file_would_be() {
    let mut tree = tree();
    mkdir(&mut tree, "/a").unwrap();
    symlink(&mut tree, "a/new", "/dangling");
    assert_eq!(find(&tree, "/dangling"), Err(errno::ENOENT));
    let walk = walk(&tree, "/dangling", Last::Follow).unwrap();
    assert_eq!(walk.directory, find(&tree, "/a").unwrap());
    let node = tree.create(&walk, &New::File, 0o644, NOW).unwrap();
    assert_eq!(find(&tree, "/dangling"), Ok(node));
    assert_eq!(find(&tree, "/a/new"), Ok(node));
}
