//! How a path is followed: name by name, through links and mounts.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};

use super::file_system::{Attributes, Kind, NAME_BYTES_MAX, Node};
use super::tree::Tree;
use crate::system_calls::{Errno, errno};

/// More links in one path are taken for a loop (MAXSYMLINKS).
const LINKS_MAX: u32 = 40;

/// What is done with a symbolic link behind the last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// it is followed
    Follow,
    /// it is what is looked for, unless a slash follows
    Keep,
    /// it is followed, unless a slash follows: a file is to be made where nothing is, and its name can have none
    Make,
    /// The name itself is what is looked for: it is to be made, moved or removed.
    Name,
}

/// The last name of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// a name
    Normal(String),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// none: the path is `/`
    Root,
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// a node of a file system
    Node(Node),
    /// the link of a descriptor in /proc/self/fd
    Link(i32),
    /// what that descriptor stands for, which has no node
    Object(i32),
}

/// A path that was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// the directory with the last name
    pub directory: Node,
    /// the last name
    pub name: Name,
    /// whether a slash follows it, where it is a name
    pub has_slash: bool,
    /// what has that name, None where nothing has
    pub target: Option<Target>,
    /// whether that is a directory
    pub is_directory: bool,
}

impl Walk {
    /// What is there.
    ///
    /// # Errors
    /// ENOENT where nothing is; ENOTDIR where a slash follows and it is no directory.
    pub fn found(&self) -> Result<Target, Errno> {
        let target = self.target.ok_or(errno::ENOENT)?;
        if self.has_slash && !self.is_directory { Err(errno::ENOTDIR) } else { Ok(target) }
    }

    /// The node that is there.
    ///
    /// # Errors
    /// As [`Walk::found`]; EPERM for what has none.
    pub fn node(&self) -> Result<Node, Errno> {
        match self.found()? {
            Target::Node(node) => Ok(node),
            Target::Link(_) | Target::Object(_) => Err(errno::EPERM),
        }
    }
}

/// Tells what a descriptor stands for: None where it is closed, and its node where it has one.
pub type DescriptorNodes<'a> = &'a dyn Fn(i32) -> Option<Option<Node>>;

/// The next name of a path.
struct Step<'a> {
    name: &'a str,
    /// where the name behind it begins, in bytes
    next: usize,
    is_last: bool,
    has_slash: bool,
}

/// The name at or behind a place in a path, None where only slashes are left.
fn next_name(path: &str, from: usize) -> Option<Step<'_>> {
    let rest = path.get(from..)?;
    let start = from + rest.find(|letter| letter != '/')?;
    let rest = &path[start..];
    let length = rest.find('/').unwrap_or(rest.len());
    let behind = &rest[length..];
    let slashes = behind.len() - behind.trim_start_matches('/').len();
    Some(Step {
        name: &rest[..length],
        next: start + length + slashes,
        is_last: slashes == behind.len(),
        has_slash: slashes > 0 && slashes == behind.len(),
    })
}

impl Tree {
    /// Follows a path from a directory; one that begins with a slash begins at the root.
    ///
    /// # Errors
    /// ENOENT for an empty path and for a directory that is missing, ENOTDIR for one that is none, ELOOP, ENAMETOOLONG.
    pub fn walk(&self, start: Node, path: &str, last: Last, descriptors: DescriptorNodes) -> Result<Walk, Errno> {
        if path.is_empty() {
            return Err(errno::ENOENT);
        }
        let mut path = Cow::Borrowed(path);
        let mut from = 0;
        let mut links = 0;
        let mut current = Target::Node(if path.starts_with('/') { self.root() } else { start });
        loop {
            let Some(step) = next_name(&path, from) else {
                return self.arrive((self.root(), Name::Root, false), Some(current));
            };
            let (directory, kind) = self.directory(current)?;
            if step.name == "." || step.name == ".." {
                let is_up = step.name == "..";
                current = Target::Node(if is_up { self.parent(directory)? } else { directory });
                if step.is_last {
                    let name = if is_up { Name::DotDot } else { Name::Dot };
                    return self.arrive((directory, name, false), Some(current));
                }
                from = step.next;
                continue;
            }
            let found = self.find(directory, &kind, step.name, descriptors)?;
            let is_followed = match last {
                Last::Follow => true,
                Last::Keep => step.has_slash || !step.is_last,
                Last::Make => !step.has_slash || !step.is_last,
                Last::Name => !step.is_last,
            };
            let place = |step: &Step| (directory, Name::Normal(step.name.to_string()), step.has_slash);
            let Some(found) = found else {
                return if step.is_last { self.arrive(place(&step), None) } else { Err(errno::ENOENT) };
            };
            match self.lead(found, is_followed, descriptors)? {
                Lead::Text(text) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(errno::ELOOP);
                    }
                    current = Target::Node(if text.starts_with('/') { self.root() } else { directory });
                    let is_end = step.is_last && !step.has_slash;
                    path = Cow::Owned(if is_end { text } else { format!("{text}/{}", &path[step.next..]) });
                    from = 0;
                }
                Lead::Target(target) if step.is_last => return self.arrive(place(&step), Some(target)),
                Lead::Target(target) => {
                    current = target;
                    from = step.next;
                }
            }
        }
    }

    fn arrive(&self, place: (Node, Name, bool), target: Option<Target>) -> Result<Walk, Errno> {
        let (directory, name, has_slash) = place;
        let is_directory = match target {
            Some(Target::Node(node)) => self.attributes(node)?.kind.is_directory(),
            _ => false,
        };
        Ok(Walk { directory, name, has_slash, target, is_directory })
    }

    /// The directory at which a path has arrived before its next name.
    fn directory(&self, current: Target) -> Result<(Node, Kind), Errno> {
        let Target::Node(node) = current else { return Err(errno::ENOTDIR) };
        let kind = self.attributes(node)?.kind;
        if kind.is_directory() { Ok((node, kind)) } else { Err(errno::ENOTDIR) }
    }

    /// What has a name in a directory.
    fn find(
        &self,
        directory: Node,
        kind: &Kind,
        name: &str,
        descriptors: DescriptorNodes,
    ) -> Result<Option<Target>, Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(errno::ENAMETOOLONG);
        }
        if matches!(kind, Kind::Descriptors) {
            let number = name.parse().ok().filter(|number: &i32| number.to_string() == name);
            return Ok(number.filter(|number| descriptors(*number).is_some()).map(Target::Link));
        }
        Ok(self.lookup(directory, name)?.map(Target::Node))
    }

    /// Where a node or link leads.
    fn lead(&self, found: Target, is_followed: bool, descriptors: DescriptorNodes) -> Result<Lead, Errno> {
        if !is_followed {
            return Ok(Lead::Target(found));
        }
        match found {
            Target::Link(number) => match descriptors(number) {
                Some(Some(node)) => Ok(Lead::Target(Target::Node(node))),
                Some(None) => Ok(Lead::Target(Target::Object(number))),
                None => Err(errno::ENOENT),
            },
            Target::Node(node) => match self.attributes(node)? {
                Attributes { kind: Kind::Link, .. } => match self.read_link(node)? {
                    text if text.is_empty() => Err(errno::ENOENT),
                    text => Ok(Lead::Text(text)),
                },
                Attributes { kind: Kind::WorkingDirectory, .. } => Ok(Lead::Target(Target::Node(self.working()))),
                _ => Ok(Lead::Target(found)),
            },
            Target::Object(_) => Ok(Lead::Target(found)),
        }
    }
}

/// Where a path goes on.
enum Lead {
    /// there
    Target(Target),
    /// along a link's path
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> alloc::vec::Vec<(String, bool, bool)> {
        let mut names = alloc::vec::Vec::new();
        let mut from = 0;
        while let Some(step) = next_name(path, from) {
            names.push((step.name.to_string(), step.is_last, step.has_slash));
            from = step.next;
        }
        names
    }

    #[test]
    fn a_path_falls_into_its_names() {
        let name = |text: &str, is_last, has_slash| (text.to_string(), is_last, has_slash);
        assert_eq!(names("a//b"), [name("a", false, false), name("b", true, false)]);
        assert_eq!(names("/a/"), [name("a", true, true)]);
        assert_eq!(names("//a///"), [name("a", true, true)]);
        assert_eq!(names("é/ü"), [name("é", false, false), name("ü", true, false)]);
        assert_eq!(names("///"), []);
    }
}
