//! The tree that the program finds.

use super::*;

fn package(files: Vec<File<'static>>) -> Package<'static> {
    let program = Program { path: "/bin/program", headers: 0, header_count: 0, entry: 0, loader: 0, start: 0 };
    Package {
        arguments: vec!["program", "-v"],
        environment: vec!["HOME=/"],
        program,
        objects: (0, 0),
        files,
        has_exact_clock: false,
    }
}

fn packed(path: &'static str, permissions: u16, content: Content<'static>) -> File<'static> {
    File { path, permissions, modified_s: None, content }
}

#[test]
fn packed_files_are_in_the_tree() {
    let object =
        Content::Object { base: 0x1000, span_bytes: 0x3000, file_bytes: 900, head: b"\x7fELF", writable: vec![] };
    let tree = Tree::new(
        &package(vec![
            packed("/bin", 0o755, Content::Directory),
            packed("/bin/program", 0o755, object),
            packed("/etc/passwd", 0o644, Content::Bytes(b"root")),
            packed("/lib", 0o777, Content::Link("usr/lib")),
            packed("/tmp", 0o700, Content::Directory),
        ]),
        u64::MAX,
        0,
    );
    let text = find(&tree, "/etc/passwd").unwrap();
    let mut buffer = [0; 10];
    assert_eq!(tree.read_at(text, 0, &mut buffer), Ok(4));
    assert_eq!(tree.attributes(text).unwrap().permissions, 0o644);
    assert_eq!(tree.attributes(find(&tree, "/tmp").unwrap()).unwrap().permissions, 0o700);
    let program = tree.attributes(find(&tree, "/proc/self/exe").unwrap()).unwrap();
    assert!(matches!(program.kind, Kind::Image(_)));
    assert_eq!(program.size, 900);
    assert_eq!(tree.images().len(), 1);
    assert_eq!(tree.program.arguments, ["program", "-v"]);
}

#[test]
fn a_packed_file_is_as_old_as_it_says_and_its_directory_as_the_vm() {
    let mut dated = packed("/etc/dated", 0o644, Content::Bytes(b""));
    dated.modified_s = Some(5);
    let tree = Tree::new(&package(vec![dated, packed("/etc/new", 0o644, Content::Bytes(b""))]), u64::MAX, 7);
    let times = |path| {
        let attributes = tree.attributes(find(&tree, path).unwrap()).unwrap();
        (attributes.modified, attributes.changed)
    };
    assert_eq!(times("/etc/dated"), (5_000_000_000, 7));
    assert_eq!(times("/etc/new"), (7, 7));
    assert_eq!(times("/etc"), (7, 7));
}

#[test]
fn what_every_system_has_is_there() {
    let tree = Tree::new(&package(vec![]), u64::MAX, 0);
    for path in ["/tmp", "/var/tmp", "/run", "/dev/shm", "/proc/self/fd", "/sys/devices/system/cpu"] {
        assert!(walk(&tree, path, Last::Follow).unwrap().is_directory, "{path}");
    }
    let null = tree.attributes(find(&tree, "/dev/null").unwrap()).unwrap();
    assert!(matches!(null.kind, Kind::Device(Device::Null)));
    assert_eq!(null.status(find(&tree, "/dev/null").unwrap()).st_rdev, 0x103);
    assert!(find(&tree, "/proc/2/stat").is_ok());
    assert!(find(&tree, "/proc/mounts").is_ok());
    assert_eq!(find(&tree, "/proc/nothing"), Err(errno::ENOENT));
}

#[test]
fn descriptors_are_links_in_proc() {
    let mut tree = Tree::new(&package(vec![]), u64::MAX, 0);
    let node = file(&mut tree, "/tmp/file");
    let directory = mkdir(&mut tree, "/tmp/directory").unwrap();
    let inner = file(&mut tree, "/tmp/directory/inner");
    // 0 is a pipe, 3 a file, 4 a directory.
    let descriptors = |number: i32| match number {
        0 => Some(None),
        3 => Some(Some(node)),
        4 => Some(Some(directory)),
        _ => None,
    };
    let target = |path: &str, last| tree.walk(tree.root(), path, last, &descriptors).and_then(|walk| walk.found());
    assert_eq!(target("/proc/self/fd/3", Last::Follow), Ok(Target::Node(node)));
    assert_eq!(target("/proc/self/fd/3", Last::Keep), Ok(Target::Link(3)));
    assert_eq!(target("/dev/stdin", Last::Follow), Ok(Target::Object(0)));
    assert_eq!(target("/dev/fd/4/inner", Last::Follow), Ok(Target::Node(inner)));
    assert_eq!(target("/proc/self/fd/0/x", Last::Follow), Err(errno::ENOTDIR));
    for path in ["/proc/self/fd/5", "/proc/self/fd/03", "/proc/self/fd/-1", "/proc/self/fd/x"] {
        assert_eq!(target(path, Last::Follow), Err(errno::ENOENT), "{path}");
    }
}

#[test]
fn the_working_directory_is_a_link_in_proc() {
    let mut tree = Tree::new(&package(vec![]), u64::MAX, 0);
    let directory = find(&tree, "/tmp").unwrap();
    let node = file(&mut tree, "/tmp/file");
    tree.set_working(directory);
    assert_eq!(find(&tree, "/proc/self/cwd/file"), Ok(node));
    assert_eq!(find(&tree, "/proc/self/cwd"), Ok(directory));
}

#[test]
fn a_node_is_put_through_directories_only() {
    let mut ram = Ram::new(ROOM);
    put(&mut ram, "/a/b/c", Ram::directory(), 0o700, NOW).unwrap();
    put(&mut ram, "/link", Body::Link(Rc::from("a")), 0o777, NOW).unwrap();
    assert_eq!(put(&mut ram, "/link/x", Ram::directory(), 0o700, NOW), Err(errno::ENOTDIR));
    assert_eq!(put(&mut ram, "/link", Ram::directory(), 0o700, NOW), Err(errno::EEXIST));
    put(&mut ram, "/", Ram::directory(), 0o711, NOW).unwrap();
    assert_eq!(ram.attributes(ram.root()).unwrap().permissions, 0o711);
}
