//! Makes cargo build the crate again when a file joins or leaves the folders that it carries.

fn main() {
    for folder in ["sdk", "templates", "../guests/sdk"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
