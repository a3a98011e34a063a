//! Compiles the .proto files with protox: no protoc is needed to build Wherry.

use std::{env, fs, path::PathBuf};

use tonic_prost_build::FileDescriptorSet;

const FILES: [&str; 8] = [
    "wherry/v1/error.proto",
    "wherry/v1/group.proto",
    "wherry/v1/message.proto",
    "wherry/v1/publisher.proto",
    "wherry/v1/request.proto",
    "wherry/v1/subscriber.proto",
    "wherry/v1/topic.proto",
    "wherry/v1/transaction.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // For reflection; source info is left out of it, as nobody asks for it at run time.
    let mut described = compiler.file_descriptor_set();
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("wherry.v1.bin"), protox::prost::Message::encode_to_vec(&described))?;
    let set: FileDescriptorSet = compiler.file_descriptor_set();
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
