//! The packer: an unmodified Linux program, its libraries and files, and a personality that serves its system calls, in
//! one Solo5 image.
//!
//! All code is known when the image is made, and lies at a fixed address: the program, its dynamic loader and the
//! libraries are laid out as the loader would map them, every SYSCALL becomes a jump to a stub that calls the
//! personality, and whatever else the VMM refuses in code becomes UD2. The loader then runs in the guest and finds its
//! files in place. `docs/decisions/packing.md` says why.

mod contents;
mod coverage;
mod error;
mod flow;
mod frames;
mod layout;
mod object;
mod patches;
mod personality;
mod stubs;
#[cfg(test)]
mod tests;
mod writer;

pub use contents::{Request, RequestedContent, RequestedFile};
pub use error::{PackError, Refusal};

use std::collections::HashMap;
use std::ops::Range;

use package::{Content, File, Package, Place, Program};

use self::contents::{Contents, pristine};
use self::coverage::Coverage;
use self::flow::Flow;
use self::layout::{Layout, behind, check_end};
use self::object::{Object, ObjectFile};
use self::patches::Patched;
use self::personality::Personality;
use self::stubs::Stubs;
use self::writer::{Output, Symbol};
use crate::determinism::rewrite;
use crate::image::{DeviceKind, Image, Manifest, ManifestEntry, Segment};

const NETWORK_DEVICE: &str = "service";
const BLOCK_DEVICE: &str = "storage";

/// An image, and what went into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub image: Vec<u8>,
    /// The first guest address behind the image: a VM needs more memory than this.
    pub end: u64,
    /// Programs and libraries.
    pub objects: usize,
    /// SYSCALL instructions that became calls.
    pub system_calls: usize,
    /// Instructions that became UD2.
    pub undefined: usize,
    /// Files, directories and links, objects included.
    pub files: usize,
}

/// What a program asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The path of its dynamic loader, `None` for a static program.
    pub loader: Option<String>,
    /// Functions that start other processes, and that it imports.
    pub starts_processes: Vec<&'static str>,
}

/// Looks at a program before anything is packed.
///
/// # Errors
/// [`PackError::Object`] says why it cannot be packed.
pub fn examine_program(path: &str, bytes: &[u8]) -> Result<Examined, PackError> {
    let file = ObjectFile::parse(path, bytes)?;
    file.check_code()?;
    let loader = file.interpreter().map(str::to_owned);
    if file.is_library() && loader.is_none() {
        return Err(PackError::Object { path: path.to_owned(), refusal: Refusal::Library });
    }
    Ok(Examined { loader, starts_processes: file.starts_processes() })
}

/// Whether these bytes are a shared library for x86-64, which has to be laid out.
pub fn is_library(bytes: &[u8]) -> bool {
    ObjectFile::parse("", bytes).is_ok_and(|file| file.is_library())
}

/// Makes the image.
///
/// # Errors
/// [`PackError`] names what cannot be packed, and where.
pub fn pack(request: &Request) -> Result<Packed, PackError> {
    let personality = Personality::read(&request.personality)?;
    let contents = Contents::read(&request.files)?;
    let mut files: Vec<&RequestedFile> = request.files.iter().collect();
    files.sort_unstable_by_key(|file| &file.path);
    let parsed = object_files(request, &files, &contents)?;
    let layout = Layout::of(&parsed, personality.image.end())?;
    let mut stubs = Stubs::new(layout.end, personality.entry);
    let mut laid_out = Vec::with_capacity(parsed.len());
    let mut patched = Patched::default();
    for (file, base) in parsed.iter().zip(&layout.bases) {
        let one = LaidOut::of(file, *base, &mut stubs)?;
        patched.system_calls += one.patched.system_calls;
        patched.undefined += one.patched.undefined;
        laid_out.push(one);
    }
    let package_address = behind(stubs.end());
    let package = encode(request, &files, &contents, &laid_out)?;
    let place = Place { address: package_address, length_bytes: package.len() as u64 };
    let end = package_address + place.length_bytes;
    check_end(end)?;
    let objects = laid_out.len();
    let image = write(request, &personality, place, package, stubs, laid_out)?;
    Ok(Packed {
        image,
        end,
        objects,
        system_calls: patched.system_calls,
        undefined: patched.undefined,
        files: files.len(),
    })
}

/// An object at its place, patched.
struct LaidOut {
    object: Object,
    coverage: Coverage,
    patched: Patched,
}

impl LaidOut {
    fn of(file: &ObjectFile, base: u64, stubs: &mut Stubs) -> Result<LaidOut, PackError> {
        let mut object = file.placed(base)?;
        let mut coverage = Coverage::of(file, &object);
        let flow = Flow::follow(&object, &mut coverage);
        let patched = patches::patch(&mut object, &mut coverage, &flow, stubs)?;
        Ok(LaidOut { object, coverage, patched })
    }

    /// Its functions, and what is no code in executable segments.
    fn symbols(&self) -> impl Iterator<Item = Symbol> {
        let functions = self.coverage.functions.iter().map(|(start, function)| Symbol {
            name: self.coverage.name_of(&self.object, *start, function),
            range: *start..start + function.length_bytes,
            is_function: true,
        });
        let gaps = self.object.executable().flat_map(|segment| self.coverage.code.gaps(segment.content()));
        functions.chain(gaps.map(|gap| data_symbol(&self.object.name, gap)))
    }
}

fn data_symbol(owner: &str, range: Range<u64>) -> Symbol {
    Symbol { name: format!("{owner}: data"), range, is_function: false }
}

/// The objects among the files: the program, its loader, and the others by their paths.
fn object_files<'a>(
    request: &Request,
    files: &[&'a RequestedFile],
    contents: &'a Contents,
) -> Result<Vec<ObjectFile<'a>>, PackError> {
    let mut objects = Vec::new();
    for file in files {
        if let RequestedContent::Object(path) = &file.content {
            let object = ObjectFile::parse(&file.path, contents.of(path))?;
            object.check_code()?;
            if object.is_fixed() && file.path != request.program_file {
                let refusal = Refusal::Fixed;
                return Err(PackError::Object { path: file.path.clone(), refusal });
            }
            objects.push(object);
        }
    }
    for path in request.loader_file.iter().chain([&request.program_file]) {
        let found = objects.iter().position(|object| object.path == path);
        let index = found.ok_or_else(|| PackError::NoSuchFile { path: path.clone() })?;
        objects[..=index].rotate_right(1);
    }
    Ok(objects)
}

/// The package, in bytes; the order of `laid_out` is that of [`object_files`].
fn encode(
    request: &Request,
    files: &[&RequestedFile],
    contents: &Contents,
    laid_out: &[LaidOut],
) -> Result<Vec<u8>, PackError> {
    let Some(LaidOut { object: program, .. }) = laid_out.first() else {
        return Err(PackError::NoSuchFile { path: request.program_file.clone() });
    };
    let loader = laid_out.get(1).map(|one| &one.object).filter(|_| request.loader_file.is_some());
    let objects: HashMap<&str, &Object> = laid_out.iter().map(|one| (one.object.path.as_str(), &one.object)).collect();
    let package = Package {
        arguments: request.arguments.iter().map(String::as_str).collect(),
        environment: request.environment.iter().map(String::as_str).collect(),
        program: Program {
            path: &request.program,
            headers: program.headers,
            header_count: program.header_count,
            entry: program.entry,
            loader: loader.map_or(0, |loader| loader.bias),
            start: loader.unwrap_or(program).entry,
        },
        objects: (
            laid_out.iter().map(|one| one.object.pages.start).min().unwrap_or(0),
            laid_out.iter().map(|one| one.object.pages.end).max().unwrap_or(0),
        ),
        files: files
            .iter()
            .map(|file| File {
                path: &file.path,
                permissions: file.permissions,
                modified_s: file.modified_s,
                content: content(file, contents, objects.get(file.path.as_str()).copied()),
            })
            .collect(),
        has_exact_clock: request.has_exact_clock,
    };
    package.encode().map_err(|error| PackError::Encode(error.to_string()))
}

/// What a file holds; `object` is what was laid out of it.
fn content<'a>(file: &'a RequestedFile, contents: &'a Contents, object: Option<&'a Object>) -> Content<'a> {
    match &file.content {
        RequestedContent::Directory => Content::Directory,
        RequestedContent::Link(target) => Content::Link(target),
        RequestedContent::Text(text) => Content::Bytes(text.as_bytes()),
        RequestedContent::Host(path) | RequestedContent::Object(path) => {
            let bytes = contents.of(path);
            match object {
                None => Content::Bytes(bytes),
                Some(object) => Content::Object {
                    base: object.pages.start,
                    span_bytes: object.pages.end - object.pages.start,
                    file_bytes: bytes.len() as u64,
                    head: &bytes[..object.head_bytes as usize],
                    writable: pristine(object),
                },
            }
        }
    }
}

/// The image's file, which the VMM's own checks have seen.
fn write(
    request: &Request,
    personality: &Personality,
    place: Place,
    package: Vec<u8>,
    stubs: Stubs,
    laid_out: Vec<LaidOut>,
) -> Result<Vec<u8>, PackError> {
    let mut symbols: Vec<Symbol> = personality
        .image
        .functions
        .iter()
        .map(|function| Symbol {
            name: function.name.clone(),
            range: function.address..function.address + function.length_bytes,
            is_function: true,
        })
        .collect();
    symbols.extend(personality.image.data_ranges.iter().map(|range| data_symbol("personality", range.clone())));
    let mut segments = personality.segments_for(place);
    let (stub_segment, stubs) = stubs.finish();
    symbols.extend(stubs.into_iter().map(|stub| Symbol {
        name: format!("stub of {}", stub.place),
        range: stub.address..stub.address + stub.length_bytes,
        is_function: true,
    }));
    segments.extend(stub_segment);
    for one in laid_out {
        symbols.extend(one.symbols());
        segments.extend(one.object.segments);
    }
    segments.push(Segment {
        address: place.address,
        memory_bytes: place.length_bytes,
        data: package,
        writable: false,
        executable: false,
    });
    let output = Output {
        entry: personality.image.entry,
        manifest: manifest(request),
        thread_record: Some(personality.record),
        segments,
        symbols,
    };
    let image = output.write().map_err(|error| PackError::Encode(error.to_string()))?;
    let parsed = Image::parse(&image).map_err(|error| PackError::Encode(error.to_string()))?;
    match rewrite(&parsed) {
        Ok(_) => Ok(image),
        Err(error) => Err(PackError::Unusable { place: parsed.functions.place_of(error.address), error }),
    }
}

/// The devices that the personality opens where they are there.
fn manifest(request: &Request) -> Manifest {
    let network = request.has_network.then_some((NETWORK_DEVICE, DeviceKind::Network));
    let disk = request.has_disk.then_some((BLOCK_DEVICE, DeviceKind::Block));
    let devices = network.into_iter().chain(disk);
    let entries = (1..).zip(devices).map(|(index, (name, kind))| ManifestEntry { index, name: name.to_owned(), kind });
    Manifest { entries: entries.collect() }
}
