//! Compiles the `.proto` files with a compiler written in Rust, so that no machine needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=gateway");
    let files = protox::compile(["gateway/v1/config_sync.proto"], ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
