//! The build script of every guest: links the image by the SDK's script, without an operating system's start-up files and
//! libraries.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/image.ld");
    println!("cargo::rerun-if-changed={script}");
    let script = format!("-Wl,--script={script}");
    let options = ["-Wl,--build-id=none", "-Wl,-z,norelro", "-Wl,-z,max-page-size=4096"];
    for argument in ["-nostdlib", "-nostartfiles", "-static", "-no-pie", &script].into_iter().chain(options) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
