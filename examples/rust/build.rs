//! Generates the stubs; protox stands in for protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../../proto/proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let files = ["publisher", "request", "subscriber"].map(|name| format!("wherry/v1/{name}.proto"));
    let described = protox::compile(files, [PROTO])?;
    tonic_prost_build::configure().build_server(false).compile_fds(described)?;
    Ok(())
}
